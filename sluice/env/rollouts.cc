#include "sluice/env/rollouts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cmath>
#include <ctime>
#include <utility>

namespace sluice::env {
namespace {

// About what it takes of memory.
size_t weight(const RolloutEvent& event) {
  size_t bytes = 256;
  for (const auto& field : event.detail) {
    bytes += 64 + field.key().size();
    if (const auto* text = field.value().if_string()) bytes += text->size();
  }
  return bytes;
}

}  // namespace

struct RolloutBoard::Record {
  Record(std::string i, net::Shard* shard) : id(std::move(i)), changed(shard) {}

  double age() const {
    const auto until = ended ? end : Clock::now();
    return std::round(to_seconds(until - began) * 1000) / 1000;
  }

  const std::string id;
  json::Object summary;
  json::Object result;
  std::function<void()> cancel;
  std::string client;
  const std::string began_at = fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)));
  const Clock::time_point began = Clock::now();
  Clock::time_point end;
  bool cancelling = false;
  bool ended = false;
  uint64_t last_event = 0;
  std::deque<RolloutEvent> events;
  size_t weight = 0;  // of them
  net::Broadcast changed;
};

RolloutBoard::RolloutBoard(net::Shard& shard, RolloutBoardLimits limits)
    : shard_(shard), limits_(limits) {}

RolloutBoard::~RolloutBoard() = default;

RolloutBoard::Record* RolloutBoard::record(std::string_view id) const {
  const auto found = records_.find(id);
  return found == records_.end() ? nullptr : found->second.get();
}

void RolloutBoard::add_event(Record& record, std::string kind, json::Object detail) {
  record.events.push_back(
      RolloutEvent{++record.last_event, record.age(), std::move(kind), std::move(detail)});
  record.weight += weight(record.events.back());
  while (record.events.size() > 1 &&
         (record.events.size() > limits_.events_each || record.weight > limits_.event_bytes_each)) {
    record.weight -= weight(record.events.front());
    record.events.pop_front();
  }
  record.changed.notify_all();
}

void RolloutBoard::begin(const std::string& id, json::Object summary, std::function<void()> cancel,
                         std::string client) {
  if (records_.contains(id)) return;
  auto record = std::make_shared<Record>(id, &shard_);
  record->summary = std::move(summary);
  record->cancel = std::move(cancel);
  record->client = std::move(client);
  records_.emplace(id, std::move(record));
  order_.push_back(id);
}

void RolloutBoard::event(const std::string& id, std::string kind, json::Object detail) {
  Record* const one = record(id);
  if (one != nullptr && !one->ended) add_event(*one, std::move(kind), std::move(detail));
}

void RolloutBoard::update(const std::string& id, json::Object fields) {
  Record* const one = record(id);
  if (one == nullptr) return;
  for (auto& field : fields) one->summary[field.key()] = std::move(field.value());
}

void RolloutBoard::finish(const std::string& id, json::Object fields, json::Object result) {
  Record* const one = record(id);
  if (one == nullptr || one->ended) return;
  one->ended = true;
  one->end = Clock::now();
  one->cancel = nullptr;
  one->result = std::move(result);
  ++ended_;
  json::Object detail = fields;
  update(id, std::move(fields));
  add_event(*one, "ended", std::move(detail));
  forget_oldest();
}

void RolloutBoard::forget_oldest() {
  for (auto at = order_.begin(); ended_ > limits_.ended_rollouts && at != order_.end();) {
    if (!record(*at)->ended) {
      ++at;
      continue;
    }
    records_.erase(*at);
    at = order_.erase(at);
    --ended_;
  }
}

json::Object RolloutBoard::row(const Record& record) const {
  json::Object out{{"rollout_id", record.id},
                   {"state", record.ended        ? "ended"
                             : record.cancelling ? "cancelling"
                                                 : "running"},
                   {"began_at", record.began_at},
                   {"wall_s", record.age()}};
  for (const auto& field : record.summary) out[field.key()] = field.value();
  return out;
}

json::Array RolloutBoard::list(std::string_view state, size_t limit,
                               std::string_view client) const {
  json::Array rows;
  for (auto at = order_.rbegin(); at != order_.rend() && rows.size() < limit; ++at) {
    const Record& found = *record(*at);
    if (found.client != client) continue;
    json::Object one = row(found);
    if (state.empty() || json::get_string(one, "state") == state) rows.push_back(std::move(one));
  }
  return rows;
}

std::optional<json::Object> RolloutBoard::find(std::string_view id, std::string_view client) const {
  const Record* const one = record(id);
  if (one == nullptr || one->client != client) return std::nullopt;
  json::Object out = row(*one);
  json::Array events;
  for (const RolloutEvent& event : one->events) events.push_back(to_json(event));
  out["events"] = std::move(events);
  out["result"] = one->ended ? json::Value(one->result) : json::Value(nullptr);
  return out;
}

Result<void> RolloutBoard::cancel(std::string_view id, std::string_view client) {
  Record* const one = record(id);
  if (one == nullptr || one->client != client) {
    return Error(ErrorCode::kNotFound, "there is no such rollout", ErrorOrigin::kCaller);
  }
  if (one->ended) {
    return Error(ErrorCode::kFailedPrecondition, "the rollout has ended", ErrorOrigin::kCaller);
  }
  one->cancelling = true;
  if (one->cancel) {
    add_event(*one, "cancelling", {});
    std::exchange(one->cancel, nullptr)();
  }
  return {};
}

awaitable<Result<std::vector<RolloutEvent>>> RolloutBoard::events(std::string id, uint64_t after,
                                                                  Deadline deadline) {
  const auto found = records_.find(id);
  if (found == records_.end()) {
    co_return Error(ErrorCode::kNotFound, "there is no such rollout", ErrorOrigin::kCaller);
  }
  const std::shared_ptr<Record> one = found->second;
  while (one->last_event <= after && !one->ended) {
    SLUICE_CO_TRY_VOID(co_await one->changed.wait(deadline));
  }
  std::vector<RolloutEvent> behind;
  for (const RolloutEvent& event : one->events) {
    if (event.number > after) behind.push_back(event);
  }
  co_return behind;
}

json::Object to_json(const RolloutEvent& event) {
  return {
      {"number", event.number}, {"at_s", event.at}, {"kind", event.kind}, {"detail", event.detail}};
}

}  // namespace sluice::env
