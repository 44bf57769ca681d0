#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace ptx {

/// A kernel did what it must not, or uses what the machine does not know.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A launch takes more instructions than the machine's options allow; thrown by Machine::launch.
class OverBudget : public Error {
 public:
  using Error::Error;
};

/// Throw Error with the parts joined.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str());
}

}  // namespace ptx
