#include "facts.h"

#include <cmath>
#include <cstdio>

namespace fastserve::smoke {

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      result += ' ';
    } else {
      result += c;
    }
  }
  return result + '"';
}

void Facts::add(std::string_view name, std::string_view value) { add_raw(name, quoted(value)); }

void Facts::add(std::string_view name, double value) {
  if (!std::isfinite(value)) return add(name, std::isnan(value) ? "NaN" : value > 0 ? "inf" : "-inf");
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%.9g", value);
  add_raw(name, digits);
}

void Facts::add(std::string_view name, bool value) { add_raw(name, value ? "true" : "false"); }

void Facts::append(const Facts& others) {
  if (!text_.empty() && !others.text_.empty()) text_ += ", ";
  text_ += others.text_;
}

void Facts::add_raw(std::string_view name, std::string_view value) {
  if (!text_.empty()) text_ += ", ";
  text_ += quoted(name);
  text_ += ": ";
  text_ += value;
}

}  // namespace fastserve::smoke
