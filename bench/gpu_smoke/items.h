#pragma once

#include <string>
#include <vector>

#include "facts.h"

// The items of the smoke test: those of device.h by name, `time SHAPE`, and SHAPE (spec.h) for a comparison.

namespace fastserve::smoke {

/// All that are run when none is named, what tells most first.
std::vector<std::string> default_items();

/// Do one; an error of ours is its outcome.
Outcome run_item(const std::string& name);

}  // namespace fastserve::smoke
