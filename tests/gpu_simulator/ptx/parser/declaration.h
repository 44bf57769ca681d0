#pragma once

#include <cstddef>
#include <string_view>

#include "ptx/parser/text_cursor.h"

namespace ptx {

/// `.align 16 .b8 name[4][8]`: a variable or a parameter.
struct Declaration {
  std::string_view name;
  std::size_t alignment = 1;
  std::size_t element_bytes = 0;
  std::size_t num_bytes = 0;  // of all elements; 0 for `name[]`
};

/// Reads what follows the directive of the space, up to the name's brackets.
Declaration read_declaration(TextCursor& cursor);

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace ptx
