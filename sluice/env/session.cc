#include "sluice/env/session.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/base/core/check.h"
#include "sluice/base/id.h"

namespace sluice::env {
namespace {

constexpr std::chrono::milliseconds kMinReap{50};
constexpr std::chrono::seconds kMaxReap{5};

// By EnvSession::Kind.
constexpr std::string_view kKinds[] = {"ws", "mcp_ws", "mcp_http", "stateless", "web"};

}  // namespace

EnvSession::EnvSession(EnvSessions* all, std::string id, Kind kind, std::string client)
    : all_(all),
      id_(std::move(id)),
      kind_(kind),
      client_(std::move(client)),
      idle_(&all->shard()) {}

EnvSession::~EnvSession() {
  CHECK(calls_.empty());
}

void EnvSession::report_exception(const char* what) const {
  all_->log_.error("env", "an environment failed",
                   {{"environment", all_->info().class_name}, {"session", id_}, {"what", what}});
}

void EnvSession::begin(const std::shared_ptr<EnvCall>& call) {
  calls_.push_back(call);
  if (all_->info().calls == EnvironmentInfo::Calls::kOverlapping || calls_.size() == 1) {
    call->has_turn = true;
  }
}

// False: the call ends before it began.
awaitable<bool> EnvSession::wait_turn(std::shared_ptr<EnvCall> call) {
  while (!call->has_turn && call->cancelled() == CancelReason::kNone && !closing_) {
    const auto waited = co_await net::wait_for(&all_->shard(), &call->turn, call->deadline());
    if (!waited) co_return false;
  }
  co_return call->has_turn && call->cancelled() == CancelReason::kNone && !closing_;
}

void EnvSession::end(const std::shared_ptr<EnvCall>& call) {
  const bool was_first = calls_.front() == call;
  calls_.remove(call);
  touch();
  if (calls_.empty()) {
    idle_.notify_all();
  } else if (was_first && !calls_.front()->has_turn) {
    calls_.front()->has_turn = true;
    calls_.front()->turn.notify();
  }
}

awaitable<void> EnvSession::unwind(std::shared_ptr<EnvSession> self,
                                   std::shared_ptr<EnvCall> call) {
  co_await call->group.join();
  self->end(call);
}

void EnvSession::cancel_calls(CancelReason reason) {
  // A copy: what is cancelled may end at once.
  const auto calls = calls_;
  for (const auto& call : calls) call->cancel(reason);
}

EnvSessions::EnvSessions(net::Shard& shard, EnvironmentFactory& factory, SessionLimits limits,
                         Logger log, Metrics& metrics)
    : shard_(shard),
      factory_(factory),
      limits_(limits),
      log_(std::move(log)),
      active_gauge_(metrics.gauge("sluice_env_sessions", "Sessions that hold a slot.")),
      changed_(&shard),
      reaper_(shard.wheel()),
      tasks_(shard.executor()) {
  const auto counter = [&](std::string_view kind, const char* outcome) {
    return metrics.counter("sluice_env_sessions_total",
                           "Sessions opened, and those whose environment could not be made.",
                           {{"kind", std::string(kind)}, {"outcome", outcome}});
  };
  for (const std::string_view kind : kKinds) {
    opened_.push_back(counter(kind, "opened"));
    failed_.push_back(counter(kind, "failed"));
  }
}

EnvSessions::~EnvSessions() {
  CHECK(tasks_.size() == 0 && all_.empty());
}

SessionRefusal EnvSessions::at_capacity() const {
  json::Object data{{"active_sessions", table_.size()}, {"max_sessions", limits_.sessions}};
  return {SessionRefusal::Kind::kCapacity,
          fmt::format("Server at capacity: {}/{} sessions active. Cannot accept new connections.",
                      table_.size(), limits_.sessions),
          std::move(data)};
}

awaitable<EnvSessions::Opened> EnvSessions::open(EnvSession::Kind kind, std::string client) {
  if (stopping_) {
    co_return tl::unexpected(
        SessionRefusal{SessionRefusal::Kind::kStopping, "The server is stopping.", {}});
  }
  // The page's one environment is not a session in the sense of the limits, nor is a single call's.
  const bool counted = kind != EnvSession::Kind::kStateless && kind != EnvSession::Kind::kWeb;
  if (counted && table_.size() >= limits_.sessions) co_return tl::unexpected(at_capacity());
  if (kind == EnvSession::Kind::kStateless && stateless_ >= limits_.stateless) {
    co_return tl::unexpected(
        SessionRefusal{SessionRefusal::Kind::kCapacity,
                       fmt::format("{} calls without a session are under way already.", stateless_),
                       {}});
  }
  auto session = std::make_shared<EnvSession>(this, new_uuid(), kind, std::move(client));
  if (counted) {
    table_.emplace(session->id(), session);
    active_gauge_.set(static_cast<double>(table_.size()));
  }
  if (kind == EnvSession::Kind::kStateless) ++stateless_;
  all_.insert(session.get());

  Result<std::unique_ptr<Environment>> made = Error(ErrorCode::kInternal, "internal error");
  try {
    auto task = factory_.create(session->id());
    made = co_await std::move(task);
    if (made && *made == nullptr) made = Error(ErrorCode::kInternal, "the factory made nothing");
  } catch (const std::exception& e) {
    made = Error(ErrorCode::kInternal, e.what());
  }
  (made ? opened_ : failed_)[static_cast<size_t>(kind)].add();
  if (!made) {
    log_.error("env", "an environment could not be made",
               {{"environment", factory_.info().class_name}, {"error", made.error().message}});
    table_.erase(session->id());
    active_gauge_.set(static_cast<double>(table_.size()));
    if (kind == EnvSession::Kind::kStateless) --stateless_;
    all_.erase(session.get());
    changed_.notify_all();
    json::Object data;
    data["factory_name"] = factory_.info().class_name;
    co_return tl::unexpected(
        SessionRefusal{SessionRefusal::Kind::kFactory,
                       fmt::format("Environment factory '{}' failed to create instance.",
                                   factory_.info().class_name),
                       std::move(data)});
  }
  session->environment_ = std::move(*made);
  session->touch();
  if (counted) {
    log_.info("env", "session opened",
              {{"session", session->id()}, {"kind", kKinds[static_cast<size_t>(kind)]}});
    arm_reaper();
  }
  co_return session;
}

awaitable<void> EnvSessions::close(std::shared_ptr<EnvSession> session, CancelReason reason) {
  if (std::exchange(session->closing_, true)) {
    while (session->environment_) {
      const auto waited = co_await changed_.wait(Deadline::never());
    }
    co_return;
  }
  session->cancel_calls(reason);
  while (session->busy()) {
    const auto waited = co_await session->idle_.wait(Deadline::never());
  }
  const bool counted = table_.erase(session->id()) > 0;
  active_gauge_.set(static_cast<double>(table_.size()));
  try {
    co_await session->environment_->close();
  } catch (const std::exception& e) {
    session->report_exception(e.what());
  }
  session->environment_.reset();
  if (session->kind() == EnvSession::Kind::kStateless) --stateless_;
  all_.erase(session.get());
  changed_.notify_all();
  if (counted) {
    log_.info("env", "session closed",
              {{"session", session->id()}, {"reason", env::to_string(reason)}});
  }
}

void EnvSessions::close_later(std::shared_ptr<EnvSession> session, CancelReason reason) {
  tasks_.spawn(close(std::move(session), reason));
}

std::shared_ptr<EnvSession> EnvSessions::find(std::string_view id, std::string_view client) const {
  const auto found = table_.find(id);
  if (found == table_.end() || found->second->closing_) return nullptr;
  if (found->second->client() != client) return nullptr;
  return found->second;
}

void EnvSessions::arm_reaper() {
  if (reaper_.armed() || table_.empty() || stopping_) return;
  const Duration shortest =
      std::min(limits_.idle_timeout.value_or(limits_.http_ttl), limits_.http_ttl);
  const Duration pause = std::clamp<Duration>(shortest / 4, kMinReap, kMaxReap);
  reaper_.arm(Deadline::in(pause), [this] {
    reap();
    arm_reaper();
  });
}

void EnvSessions::reap() {
  const auto now = Clock::now();
  const auto all = table_;
  for (const auto& [id, session] : all) {
    if (!session->ready() || session->busy() || session->closing_) continue;
    const Duration idle = now - session->active();
    const bool over = (limits_.idle_timeout && idle > *limits_.idle_timeout) ||
                      (session->kind() == EnvSession::Kind::kHttp && idle > limits_.http_ttl);
    if (!over) continue;
    log_.info("env", "session idle for too long", {{"session", id}});
    if (session->on_end) {
      session->on_end(CancelReason::kRequested);  // its connection closes it
    } else {
      close_later(session, CancelReason::kRequested);
    }
  }
}

awaitable<void> EnvSessions::stop(Deadline deadline) {
  stopping_ = true;
  reaper_.disarm();
  for (;;) {
    const bool late = deadline.expired();
    std::vector<std::shared_ptr<EnvSession>> all;
    for (EnvSession* session : all_) all.push_back(session->shared_from_this());
    for (const auto& session : all) {
      if (late) session->cancel_calls(CancelReason::kStopping);
      if (!table_.contains(session->id())) continue;  // its only call, or the page, ends it
      if (!session->ready() || session->busy() || session->closing_) continue;
      if (session->on_end) {
        session->on_end(CancelReason::kStopping);
      } else {
        close_later(session, CancelReason::kStopping);
      }
    }
    if (all_.empty()) break;
    // Told when one has ended; what became idle meanwhile is looked at now and then.
    const Deadline soon = Deadline::in(std::chrono::milliseconds(20));
    const Deadline next = late ? soon : soon.earlier(deadline);
    const auto waited = co_await changed_.wait(next);
  }
  co_await tasks_.join();
}

}  // namespace sluice::env
