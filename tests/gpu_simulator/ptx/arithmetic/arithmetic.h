#pragma once

#include "ptx/instruction.h"

// The families of arithmetic_handler, one a file. Null: not an instruction of the family; Error: a form of one that is
// not implemented.
namespace ptx {

Handler integer_handler(const Instruction& instruction);         // add, sub, mul, mad, div, ... of integers
Handler bits_handler(const Instruction& instruction);            // logic, shifts, bit fields, prmt
Handler floating_handler(const Instruction& instruction);        // add, mul, fma, div, min, ... of floats
Handler transcendental_handler(const Instruction& instruction);  // rcp, sqrt, ex2, lg2, sin, ...
Handler convert_handler(const Instruction& instruction);         // cvt
Handler compare_handler(const Instruction& instruction);         // setp, set, selp, slct
Handler move_handler(const Instruction& instruction);            // mov

}  // namespace ptx
