#!/bin/sh
# Make sure that CMake finds GoogleTest: install Debian's package where that is possible, else say what to do.
set -eu
for dir in /usr/lib/*/cmake/GTest /usr/lib/cmake/GTest /usr/local/lib/cmake/GTest; do
  [ -d "$dir" ] && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq libgtest-dev >/dev/null
else
  echo "GoogleTest is needed for the C++ tests: install libgtest-dev (Debian, Ubuntu) or gtest-devel (Fedora)" >&2
  exit 1
fi
