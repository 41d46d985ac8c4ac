// EnvSession: one environment with the calls under way on it; and the table of all of them, with
// its limits and the end of those that nobody uses any more.
//
// On the server's shard.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

#include "sluice/base/log.h"
#include "sluice/base/metrics.h"
#include "sluice/env/environment.h"
#include "sluice/net/shard.h"
#include "sluice/net/wait.h"
#include "sluice/net/wheel.h"

namespace sluice::env {

struct ProgressNote {
  double progress = 0;
  std::optional<double> total;
  std::string message;
};
using ProgressSink = std::function<void(ProgressNote note)>;

// One call under way.
class EnvCall final : public CallContext {
 public:
  EnvCall(net::Shard& shard, std::string session, std::string client, Deadline deadline,
          ProgressSink sink)
      : group(shard.executor()),
        session_(std::move(session)),
        client_(std::move(client)),
        deadline_(deadline),
        sink_(std::move(sink)) {}

  const std::string& session() const override { return session_; }
  std::string client() const override { return client_; }
  Deadline deadline() const override { return deadline_; }
  CancelReason cancelled() const override { return reason_; }
  void progress(double progress, std::optional<double> total, std::string message) override {
    if (sink_) sink_(ProgressNote{progress, total, std::move(message)});
  }

  // The first reason counts.
  void cancel(CancelReason reason) {
    if (reason_ != CancelReason::kNone) return;
    reason_ = reason;
    turn.notify();
    group.cancel();
  }
  // Nobody listens any more.
  void forget_sink() { sink_ = nullptr; }

  net::TaskGroup group;  // the one coroutine that works on it
  net::Signal turn;
  net::Signal done;
  bool has_turn = false;

 private:
  const std::string session_, client_;
  const Deadline deadline_;
  ProgressSink sink_;
  CancelReason reason_ = CancelReason::kNone;
};

// A call that somebody else may cancel while it runs.
class CallHandle {
 public:
  void cancel(CancelReason reason) {
    if (const auto call = call_.lock()) call->cancel(reason);
    if (reason_ == CancelReason::kNone) reason_ = reason;
  }

 private:
  friend class EnvSession;
  std::weak_ptr<EnvCall> call_;
  CancelReason reason_ = CancelReason::kNone;  // before it began
};

struct CallOptions {
  Deadline deadline;
  ProgressSink sink;
  CallHandle* handle = nullptr;
};

class EnvSessions;

class EnvSession final : public std::enable_shared_from_this<EnvSession> {
 public:
  enum class Kind : uint8_t { kWebSocket, kMcpWebSocket, kHttp, kStateless, kWeb };

  EnvSession(EnvSessions* all, std::string id, Kind kind, std::string client);
  ~EnvSession();

  const std::string& id() const { return id_; }
  Kind kind() const { return kind_; }
  const std::string& client() const { return client_; }
  bool ready() const { return environment_ != nullptr; }
  bool busy() const { return !calls_.empty(); }
  Environment& environment() { return *environment_; }

  // Something was asked of it; it is idle from the end of that on.
  void touch() { active_ = Clock::now(); }
  Clock::time_point active() const { return active_; }

  // Who holds the session's connection is told that the session is to end.
  std::function<void(CancelReason reason)> on_end;

  // Runs `work` in the session's turn (or beside others, if the environment allows that) to its end
  // or its deadline. No value: the deadline passed, or the call was cancelled before it began; what
  // runs of it goes on being unwound behind the caller's back, and the next call waits for that.
  template <class T>
  awaitable<std::optional<Result<T>>> run(
      CallOptions options,
      std::function<awaitable<Result<T>>(Environment* environment, CallContext* context)> work);

  void cancel_calls(CancelReason reason);

 private:
  friend class EnvSessions;

  template <class T>
  static awaitable<void> perform(
      std::shared_ptr<EnvSession> self, std::shared_ptr<EnvCall> call,
      std::function<awaitable<Result<T>>(Environment*, CallContext*)> work,
      std::shared_ptr<std::optional<Result<T>>> result);
  static awaitable<void> unwind(std::shared_ptr<EnvSession> self, std::shared_ptr<EnvCall> call);

  awaitable<bool> wait_turn(std::shared_ptr<EnvCall> call);
  void begin(const std::shared_ptr<EnvCall>& call);
  void end(const std::shared_ptr<EnvCall>& call);
  void report_exception(const char* what) const;

  EnvSessions* const all_;
  const std::string id_;
  const Kind kind_;
  const std::string client_;
  std::unique_ptr<Environment> environment_;
  Clock::time_point active_ = Clock::now();
  bool closing_ = false;
  std::list<std::shared_ptr<EnvCall>>
      calls_;  // in the order in which they came; the front has the turn
  net::Broadcast idle_;
};

// Why there is no session.
struct SessionRefusal {
  enum class Kind : uint8_t { kCapacity, kFactory, kStopping } kind = Kind::kCapacity;
  std::string message;
  json::Object data;  // "active_sessions" and "max_sessions", or "factory_name"
};

struct SessionLimits {
  size_t sessions = 1;  // stateless ones do not count
  size_t stateless = 64;
  std::optional<Duration> idle_timeout;          // of any session
  Duration http_ttl = std::chrono::minutes(30);  // of one that has no connection
};

class EnvSessions {
 public:
  EnvSessions(net::Shard& shard, EnvironmentFactory& factory, SessionLimits limits, Logger log,
              Metrics& metrics);
  ~EnvSessions();  // stop() must have completed
  EnvSessions(const EnvSessions&) = delete;
  EnvSessions& operator=(const EnvSessions&) = delete;

  using Opened = tl::expected<std::shared_ptr<EnvSession>, SessionRefusal>;
  awaitable<Opened> open(EnvSession::Kind kind, std::string client);

  // Cancels its calls and closes its environment, and returns when that is done. The slot is free
  // as soon as no call is under way. Idempotent.
  awaitable<void> close(std::shared_ptr<EnvSession> session, CancelReason reason);
  // The same, not waited for.
  void close_later(std::shared_ptr<EnvSession> session, CancelReason reason);

  // A client's, if it is open or being opened; stateless ones have no id that could be known.
  std::shared_ptr<EnvSession> find(std::string_view id, std::string_view client) const;

  size_t active() const { return table_.size(); }

  // No new sessions. Calls under way may end until the deadline, then they are cancelled; idle
  // sessions are ended at once. Returns when no environment is left.
  awaitable<void> stop(Deadline deadline);

  net::Shard& shard() { return shard_; }
  const EnvironmentInfo& info() const { return factory_.info(); }

 private:
  friend class EnvSession;

  void arm_reaper();
  void reap();
  SessionRefusal at_capacity() const;

  net::Shard& shard_;
  EnvironmentFactory& factory_;
  const SessionLimits limits_;
  const Logger log_;
  Metrics::Gauge active_gauge_;
  std::vector<Metrics::Counter> opened_, failed_;  // by kind
  std::map<std::string, std::shared_ptr<EnvSession>, std::less<>> table_;
  std::set<EnvSession*> all_;  // those whose environment exists or is being made
  size_t stateless_ = 0;
  bool stopping_ = false;
  net::Broadcast changed_;
  net::Wheel::Timer reaper_;
  net::TaskGroup tasks_;  // last: what it runs uses all of the above
};

// --- Of templates, the insides -------------------------------------------------------------------

template <class T>
awaitable<void> EnvSession::perform(
    std::shared_ptr<EnvSession> self, std::shared_ptr<EnvCall> call,
    std::function<awaitable<Result<T>>(Environment*, CallContext*)> work,
    std::shared_ptr<std::optional<Result<T>>> result) {
  try {
    auto task = work(self->environment_.get(), call.get());
    result->emplace(co_await std::move(task));
  } catch (const std::exception& e) {
    self->report_exception(e.what());
    result->emplace(Error(ErrorCode::kInternal, "internal error"));
  } catch (...) {
    self->report_exception("unknown");
    result->emplace(Error(ErrorCode::kInternal, "internal error"));
  }
  call->done.notify();
}

template <class T>
awaitable<std::optional<Result<T>>> EnvSession::run(
    CallOptions options, std::function<awaitable<Result<T>>(Environment*, CallContext*)> work) {
  const auto self = shared_from_this();
  const auto call = std::make_shared<EnvCall>(all_->shard(), id_, client_, options.deadline,
                                              std::move(options.sink));
  if (options.handle != nullptr) {
    options.handle->call_ = call;
    if (options.handle->reason_ != CancelReason::kNone) call->cancel(options.handle->reason_);
  }
  begin(call);
  const bool go_on = co_await wait_turn(call);
  if (!go_on) {
    end(call);
    co_return std::nullopt;
  }
  auto result = std::make_shared<std::optional<Result<T>>>();
  call->group.spawn(perform<T>(self, call, std::move(work), result));
  bool late = false;
  while (!*result && !late) {
    const auto waited = co_await net::wait_for(&all_->shard(), &call->done, options.deadline);
    if (waited || *result) continue;
    late = waited.error().code == ErrorCode::kTimedOut;
    call->cancel(late ? CancelReason::kTimedOut : CancelReason::kStopping);
  }
  call->forget_sink();
  touch();
  if (call->group.size() == 0) {
    end(call);
  } else {
    all_->tasks_.spawn(unwind(self, call));
  }
  if (!*result) co_return std::nullopt;
  co_return std::move(**result);
}

}  // namespace sluice::env
