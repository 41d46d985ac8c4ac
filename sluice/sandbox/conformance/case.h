// What the cases are written with. Internal to the suite.
//
// A case is a plain function: it waits for each call (Try::wait runs the shard), says what it
// expects, and goes on when it is not met, so that one run tells all that is wrong.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/net/shard.h"
#include "sluice/net/testing.h"
#include "sluice/sandbox/conformance/conformance.h"

namespace sluice::sandbox::conformance {

using namespace std::chrono_literals;

inline constexpr uint64_t kMiB = 1024 * 1024;
// Generous: a remote sandbox answers slowly, a loaded machine too.
inline constexpr Duration kPatience = std::chrono::seconds(60);

class Try {
 public:
  Try(net::Shard* shard, const Options* options) : shard_(shard), options_(options) {}
  ~Try();
  Try(const Try&) = delete;
  Try& operator=(const Try&) = delete;

  // --- what cases use ---

  net::Shard& shard() { return *shard_; }
  Backend& backend() { return *backend_; }
  bool whole() const { return options_->size == Options::Size::kWhole; }

  // Shared by the cases that leave nothing behind; another one is made when it is gone.
  Sandbox& shared();
  // For this case alone; closed when it ends.
  Sandbox& fresh(sandbox::Options options = {}) { return keep(create(std::move(options))); }
  Sandbox& keep(Result<std::unique_ptr<Sandbox>> made);
  Result<std::unique_ptr<Sandbox>> create(sandbox::Options options);

  template <class T>
  T wait(awaitable<T> task) {
    return net::testing::run(*shard_, std::move(task));
  }

  Output exec(Sandbox& sandbox, Command command);
  Output sh(Sandbox& sandbox, const std::string& script, const char* user = kAgentUser);
  std::string out(Sandbox& sandbox, const std::string& script, const char* user = kAgentUser) {
    return sh(sandbox, script, user).out;
  }
  std::unique_ptr<Job> start(Sandbox& sandbox, const std::string& script,
                             const char* user = kAgentUser);
  // All of a channel up to its end.
  std::string read(Job& job, Job::Channel channel);
  static Command shell(const std::string& script, const char* user = kAgentUser);
  static Command program(std::vector<std::string> argv);
  // Expects that nobody writes to the file any more.
  void expect_still(Sandbox& sandbox, const std::string& file);

  // Puts the attack programs into a sandbox; returns their path.
  std::string carry_attacks(Sandbox& sandbox);

  void skip(std::string why);
  void fail(const char* file, int line, const std::string& what);
  bool failed() const { return !failures_.empty(); }

  // --- what the runner uses ---

  void begin(Backend* backend);
  Outcome end(const char* area, const char* name);
  void close_shared();

 private:
  static std::unique_ptr<Sandbox> must(Result<std::unique_ptr<Sandbox>> made);

  net::Shard* const shard_;
  const Options* const options_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Sandbox> shared_;
  Backend* shared_from_ = nullptr;
  std::vector<std::unique_ptr<Sandbox>> fresh_;
  std::vector<std::string> failures_;
  std::string skipped_;
  Clock::time_point began_;
};

struct Case {
  const char* name;
  void (*run)(Try& t);
};
struct Area {
  const char* name;
  std::vector<Case> cases;  // as they stand in its file
};
extern Area commands, jobs, files, ports, life, attacks;

// Heads a case and lists it with its area: SLUICE_CASE(area, name) { ... }. `t` is its Try.
struct Listed {
  Listed(Area* area, Case one) { area->cases.push_back(one); }
};
#define SLUICE_CASE(area, name)                       \
  void name(Try& t);                                  \
  const Listed name##_listed(&(area), {#name, name}); \
  void name(Try& t)

// The attack programs' executable, as built into this binary.
ByteView attack_programs();

// Values as a failure shows them.
std::string show_text(std::string_view text);
template <class T>
std::string show(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<int>(value));
  } else if constexpr (std::is_convertible_v<T, std::string_view>) {
    return show_text(value);
  } else {
    return std::to_string(value);
  }
}

#define SLUICE_EXPECT(t, condition)                                  \
  do {                                                               \
    if (!(condition)) (t).fail(__FILE_NAME__, __LINE__, #condition); \
  } while (false)

#define SLUICE_EXPECT_EQ(t, expression, expected)                                    \
  do {                                                                               \
    const auto& sluice_got = (expression);                                           \
    const auto& sluice_want = (expected);                                            \
    if (!(sluice_got == sluice_want)) {                                              \
      (t).fail(__FILE_NAME__, __LINE__,                                              \
               std::string(#expression) + ": " + show(sluice_got) + " instead of " + \
                   show(sluice_want));                                               \
    }                                                                                \
  } while (false)

// That a Result is an Error of that code.
#define SLUICE_EXPECT_ERROR(t, expression, expected)                                            \
  do {                                                                                          \
    const auto& sluice_result = (expression);                                                   \
    if (sluice_result) {                                                                        \
      (t).fail(__FILE_NAME__, __LINE__, #expression ": succeeded");                             \
    } else if (sluice_result.error().code != (expected)) {                                      \
      (t).fail(__FILE_NAME__, __LINE__,                                                         \
               std::string(#expression) + ": another error: " + sluice_result.error().message); \
    }                                                                                           \
  } while (false)

#define SLUICE_EXPECT_OK(t, expression)                                          \
  do {                                                                           \
    const auto& sluice_result = (expression);                                    \
    if (!sluice_result) {                                                        \
      (t).fail(__FILE_NAME__, __LINE__,                                          \
               std::string(#expression) + ": " + sluice_result.error().message); \
    }                                                                            \
  } while (false)

}  // namespace sluice::sandbox::conformance
