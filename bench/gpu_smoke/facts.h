#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>

namespace fastserve::smoke {

/// Members of a JSON object, in order.
class Facts {
 public:
  void add(std::string_view name, std::string_view value);
  void add(std::string_view name, const char* value) { add(name, std::string_view(value)); }
  void add(std::string_view name, double value);
  void add(std::string_view name, bool value);
  template <typename Integer>
    requires std::is_integral_v<Integer>
  void add(std::string_view name, Integer value) {
    add_raw(name, std::to_string(value));
  }

  /// The members of others behind these.
  void append(const Facts& others);
  /// `"a": 1, "b": "x"`, without braces.
  const std::string& text() const { return text_; }

 private:
  void add_raw(std::string_view name, std::string_view value);

  std::string text_;
};

/// The parts behind one another.
template <typename... Parts>
std::string joined(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

/// A string of JSON, with its quotation marks.
std::string quoted(std::string_view text);

/// How an item ended. Words: "ok"; "left out", where the device does not have it; "differs", where a result is wrong; "failed".
struct Outcome {
  std::string word = "ok";
  Facts facts;
};

}  // namespace fastserve::smoke
