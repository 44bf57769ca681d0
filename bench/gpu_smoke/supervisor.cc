#include "supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/error.h"
#include "facts.h"

namespace fastserve::smoke {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kMostHung = 3;  // then the GPU hangs, not an item
constexpr std::chrono::milliseconds kDeathTime{3000};

/// A child process and what it writes.
class Child {
 public:
  Child(const std::string& program, const std::vector<std::string>& names) {
    int ends[2];
    FS_CHECK(pipe(ends) == 0, "no pipe");
    std::vector<char*> arguments;
    std::string flag = "--child";
    arguments.push_back(const_cast<char*>(program.c_str()));
    arguments.push_back(flag.data());
    for (const std::string& name : names) arguments.push_back(const_cast<char*>(name.c_str()));
    arguments.push_back(nullptr);
    process_ = fork();
    FS_CHECK(process_ >= 0, "no process");
    if (process_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
      execv(program.c_str(), arguments.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~Child() { close(output_); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  enum class Got { kLine, kEnd, kNothing };

  /// Wait for a line.
  Got read_line(std::string& line, std::chrono::milliseconds patience) {
    const auto until = Clock::now() + patience;
    for (;;) {
      if (const auto end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Got::kLine;
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
      if (left.count() <= 0) return Got::kNothing;
      pollfd wanted{output_, POLLIN, 0};
      if (poll(&wanted, 1, static_cast<int>(left.count())) <= 0) continue;
      char bytes[4096];
      const ssize_t count = read(output_, bytes, sizeof(bytes));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Got::kEnd;
      buffer_.append(bytes, static_cast<std::size_t>(count));
    }
  }

  /// How it ended, in words; "" with exit status 0. One that does not even die is left to itself.
  std::string end(bool by_force) {
    if (by_force) kill(process_, SIGKILL);
    int status = 0;
    const auto until = Clock::now() + kDeathTime;
    while (waitpid(process_, &status, by_force ? WNOHANG : 0) == 0) {
      if (Clock::now() > until) return "it cannot be ended";
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (WIFSIGNALED(status)) return joined("signal ", WTERMSIG(status));
    device_lost_ = WEXITSTATUS(status) == kDeviceLost;
    return WEXITSTATUS(status) == 0 ? "" : std::to_string(WEXITSTATUS(status));
  }
  bool device_lost() const { return device_lost_; }

 private:
  pid_t process_ = 0;
  int output_ = 0;
  std::string buffer_;
  bool device_lost_ = false;
};

bool ended_well(const std::string& line) {
  return line.find("\"outcome\": \"ok\"") != std::string::npos ||
         line.find("\"outcome\": \"left out\"") != std::string::npos;
}

}  // namespace

bool supervise(const std::string& program, std::vector<std::string> names, std::chrono::milliseconds stall,
               const std::function<void(const std::string&)>& write) {
  bool good = true;
  int hung = 0;
  const auto end_first = [&](const std::string& how) {
    good = false;
    write(joined("{\"end\": ", quoted(names.front()), ", \"outcome\": ", quoted(how), "}"));
    names.erase(names.begin());
  };
  while (!names.empty()) {
    Child child(program, names);
    std::string line;
    auto got = Child::Got::kNothing;
    bool begun = false;
    while ((got = child.read_line(line, stall)) == Child::Got::kLine) {
      if (!line.starts_with("{\"")) continue;
      write(line);
      begun = line.starts_with("{\"begin\"");
      if (begun) continue;
      good = good && ended_well(line);
      names.erase(names.begin());
    }
    const std::string how = child.end(got == Child::Got::kNothing);
    if (names.empty()) break;
    if (got == Child::Got::kNothing) {
      end_first("hung");
      if (++hung == kMostHung) break;
    } else if (begun || !child.device_lost()) {
      end_first(joined("ended its process (", how, ")"));
    }
  }
  while (!names.empty()) end_first("not run");
  write("{\"done\": true}");
  return good;
}

}  // namespace fastserve::smoke
