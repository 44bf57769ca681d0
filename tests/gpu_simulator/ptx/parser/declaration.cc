#include "ptx/parser/declaration.h"

#include <algorithm>

#include "ptx/instruction.h"

namespace ptx {

Declaration read_declaration(TextCursor& cursor) {
  Declaration result;
  std::size_t alignment = 0;
  std::size_t vector_length = 1;
  while (cursor.accept('.')) {
    const std::string_view attribute = cursor.word();
    if (attribute == "align") {
      alignment = static_cast<std::size_t>(cursor.integer());
    } else if (attribute == "v2" || attribute == "v4") {
      vector_length = attribute == "v2" ? 2 : 4;
    } else if (const Type type = type_of(attribute); type.bits >= 8) {
      result.element_bytes = static_cast<std::size_t>(type.bytes());
    } else if (attribute == "ptr") {  // what a pointer parameter points to: `.ptr .global .align 16`
      while (cursor.accept('.')) {
        if (cursor.word() == "align") cursor.integer();
      }
    } else {
      cursor.unexpected("the type of a variable before");
    }
  }
  if (result.element_bytes == 0) cursor.unexpected("a type");
  result.element_bytes *= vector_length;
  result.alignment = std::max(alignment, result.element_bytes);
  result.name = cursor.word();
  if (result.name.empty()) cursor.unexpected("the name of a variable");
  result.num_bytes = result.element_bytes;
  while (cursor.accept('[')) {
    if (cursor.accept(']')) {
      result.num_bytes = 0;
      continue;
    }
    result.num_bytes *= static_cast<std::size_t>(cursor.integer());
    cursor.expect(']');
  }
  return result;
}

}  // namespace ptx
