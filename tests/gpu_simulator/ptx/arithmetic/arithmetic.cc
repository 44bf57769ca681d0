#include "ptx/arithmetic/arithmetic.h"

namespace ptx {

Handler arithmetic_handler(const Instruction& instruction) {
  for (const auto family : {integer_handler, bits_handler, floating_handler, transcendental_handler, convert_handler,
                            compare_handler, move_handler}) {
    if (const Handler handler = family(instruction)) return handler;
  }
  return nullptr;
}

}  // namespace ptx
