#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace fastserve::smoke {

/// Exit status of a child whose GPU fails every call; the item at fault has ended.
inline constexpr int kDeviceLost = 70;

/// Run items in child processes, `program --child NAME...`, each for as many as it survives. A child writes lines of JSON:
/// {"begin": NAME}, {"end": NAME, "outcome": WORD, ...}. What it hangs in or dies of is given its outcome, and the next one
/// goes on behind it.
///
/// Args:
///   stall: longest time of an item; longer ones are ended and have hung.
///   write: takes every line as soon as it is known.
/// Returns whether every item ended with "ok" or "left out".
bool supervise(const std::string& program, std::vector<std::string> names, std::chrono::milliseconds stall,
               const std::function<void(const std::string&)>& write);

}  // namespace fastserve::smoke
