#include "ptx/parser/text_cursor.h"

#include <charconv>
#include <cstring>
#include <string>

#include "ptx/error.h"

namespace ptx {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' || c == '$' || c == '%';
}

}  // namespace

void TextCursor::skip_blanks() {
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (c == '\n') {
      ++line_;
      ++position_;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      ++position_;
    } else if (c == '/' && text_.substr(position_, 2) == "//") {
      position_ = std::min(text_.find('\n', position_), text_.size());
    } else if (c == '/' && text_.substr(position_, 2) == "/*") {
      const std::size_t end = text_.find("*/", position_ + 2);
      if (end == std::string_view::npos) fail("PTX line ", line_, ": the comment does not end");
      for (; position_ < end + 2; ++position_) line_ += text_[position_] == '\n';
    } else {
      return;
    }
  }
}

char TextCursor::peek() {
  skip_blanks();
  return position_ < text_.size() ? text_[position_] : '\0';
}

bool TextCursor::accept(char character) {
  if (peek() != character) return false;
  ++position_;
  return true;
}

void TextCursor::expect(char character) {
  if (!accept(character)) unexpected(std::string_view(&character, 1));
}

std::string_view TextCursor::word() {
  skip_blanks();
  const std::size_t begin = position_;
  while (position_ < text_.size() && is_word(text_[position_])) ++position_;
  return text_.substr(begin, position_ - begin);
}

std::string_view TextCursor::modifier() {
  if (position_ >= text_.size() || text_[position_] != '.') return {};
  const std::size_t begin = ++position_;
  while (position_ < text_.size() && (is_word(text_[position_]) || text_[position_] == ':')) ++position_;
  if (position_ == begin) unexpected("a modifier");
  return text_.substr(begin, position_ - begin);
}

Literal TextCursor::number() {
  const bool negative = accept('-');
  skip_blanks();
  const std::string_view rest = text_.substr(position_);
  if (rest.empty() || !is_digit(rest[0])) unexpected("a number");
  Literal literal;
  int base = 10;
  std::size_t prefix = 0;
  if (rest[0] == '0' && rest.size() > 1) {
    const char mark = rest[1];
    base = std::strchr("xXfFdD", mark) != nullptr ? 16 : mark == 'b' || mark == 'B' ? 2 : is_digit(mark) ? 8 : 10;
    prefix = base == 8 ? 1 : base == 10 ? 0 : 2;
    if (mark == 'f' || mark == 'F') literal.kind = Literal::Kind::kFloat32;
    if (mark == 'd' || mark == 'D') literal.kind = Literal::Kind::kFloat64;
  }
  const char* const begin = rest.data() + prefix;
  const char* const end = rest.data() + rest.size();
  auto [stop, error] = std::from_chars(begin, end, literal.bits, base);
  if (base == 10 && stop != end && (*stop == '.' || *stop == 'e' || *stop == 'E')) {
    double value = 0;
    const auto fraction = std::from_chars(begin, end, value);
    literal.kind = Literal::Kind::kDecimal;
    std::memcpy(&literal.bits, &value, sizeof(value));
    stop = fraction.ptr;
    error = fraction.ec;
  }
  if (error != std::errc()) unexpected("a number");
  position_ += static_cast<std::size_t>(stop - rest.data());
  if (literal.kind == Literal::Kind::kInteger && position_ < text_.size() && text_[position_] == 'U') ++position_;
  if (position_ < text_.size() && is_word(text_[position_])) unexpected("the end of a number");
  if (!negative) return literal;
  if (literal.kind == Literal::Kind::kInteger) literal.bits = ~literal.bits + 1;
  if (literal.kind == Literal::Kind::kFloat32) literal.bits ^= 1ULL << 31;
  if (literal.kind == Literal::Kind::kFloat64 || literal.kind == Literal::Kind::kDecimal) literal.bits ^= 1ULL << 63;
  return literal;
}

std::int64_t TextCursor::integer() {
  const Literal literal = number();
  if (literal.kind != Literal::Kind::kInteger) unexpected("an integer before");
  return static_cast<std::int64_t>(literal.bits);
}

void TextCursor::skip_line() { position_ = std::min(text_.find('\n', position_), text_.size()); }

void TextCursor::skip_past(char character) {
  while (!at_end() && !accept(character)) ++position_;
}

void TextCursor::skip_braces() {
  expect('{');
  for (int depth = 1; depth > 0;) {
    if (at_end()) unexpected("}");
    depth += text_[position_] == '{';
    depth -= text_[position_] == '}';
    ++position_;
  }
}

void TextCursor::unexpected(std::string_view wanted) {
  skip_blanks();
  const std::string_view rest = text_.substr(position_);
  fail("PTX line ", line_, ": expected ", wanted, ", found '",
       rest.substr(0, std::min<std::size_t>(rest.find('\n'), 60)), "'");
}

}  // namespace ptx
