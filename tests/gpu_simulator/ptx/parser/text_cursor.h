#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ptx {

/// A number of a PTX text.
struct Literal {
  enum class Kind { kInteger, kFloat32, kFloat64, kDecimal };
  Kind kind = Kind::kInteger;
  std::uint64_t bits = 0;  // integers: two's complement; floats: in their width, kDecimal ("1.5"): of the double
};

/// Reads a PTX text from front to back. Everything but modifier() passes over blanks and comments first.
class TextCursor {
 public:
  explicit TextCursor(std::string_view text) : text_(text) {}

  int line() const { return line_; }  // of the position, from 1
  bool at_end() { return peek() == '\0'; }
  char peek();  // next character; '\0' at the end

  bool accept(char character);  // passes over it when it comes next
  void expect(char character);  // Error when it does not
  /// The identifier that comes next, of letters, digits, `_`, `$` and `%`; empty when none does.
  std::string_view word();
  /// What follows a `.` at exactly this position, "shared::cta" included; empty when there is no `.`.
  std::string_view modifier();
  /// An integer (decimal, hexadecimal, octal, binary, suffix U), 0f..., 0d... or decimal fraction, possibly negative.
  Literal number();
  std::int64_t integer();  // Error when the number is not one

  void skip_line();
  void skip_past(char character);
  void skip_braces();  // from `{` to its `}`

  [[noreturn]] void unexpected(std::string_view wanted);

 private:
  void skip_blanks();

  std::string_view text_;
  std::size_t position_ = 0;
  int line_ = 1;
};

}  // namespace ptx
