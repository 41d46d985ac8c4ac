#include "sluice/gate/trainer_http/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>

#include "sluice/base/digest.h"
#include "sluice/gate/body_reader.h"
#include "sluice/gate/events.h"
#include "sluice/gate/trainer_http/messages.h"
#include "sluice/llm/continuation.h"
#include "sluice/net/sse.h"
#include "sluice/net/wait.h"
#include "sluice/net/wheel.h"

namespace sluice::gate::trainer_http {
namespace {

using net::awaitable;
using net::ResponseWriter;

constexpr size_t kMinKey = 16;
constexpr size_t kMaxEventsAtOnce = 256;
constexpr size_t kMaxWatchers = 64;
constexpr size_t kConnections = 4096;  // of those who show one key
constexpr auto kLeaseCheck = std::chrono::seconds(1);
constexpr auto kDrain = std::chrono::seconds(10);

// Whose key a request shows.
enum class Who : uint8_t { kNobody, kTrainer, kOperator };

enum class For : uint8_t { kEverybody, kBoth, kTrainer, kOperator };

// Whether `path` is the row's; `id` is what stands for {id} in it.
bool matches(std::string_view pattern, std::string_view path, std::string* id) {
  const size_t brace = pattern.find("{id}");
  if (brace == std::string_view::npos) return pattern == path;
  const std::string_view before = pattern.substr(0, brace), after = pattern.substr(brace + 4);
  if (path.size() <= before.size() + after.size()) return false;
  if (!path.starts_with(before) || !path.ends_with(after)) return false;
  *id = path.substr(before.size(), path.size() - before.size() - after.size());
  return is_valid_id(*id);
}

net::HttpResponse json_answer(int status, Bytes body) {
  body.push_back('\n');
  return net::json_response(status, std::move(body));
}

net::HttpResponse error_answer(int status, const Error& error) {
  return json_answer(status, error_json(error));
}
net::HttpResponse error_answer(const Error& error) {
  return error_answer(http_status(error.code), error);
}
net::HttpResponse ok_answer() {
  return json_answer(200, R"({"ok":true})");
}

// A take in progress. What the gate tells comes by this shard.
struct Taking {
  net::Signal wake;
  std::optional<Result<std::vector<Item>>> taken;
  bool over = false;  // the client is gone, or has waited long enough
  bool gone = false;
};

// A look at a rollout's books, in progress.
struct Asking {
  net::Signal wake;
  std::shared_ptr<const Books> books;
  bool told = false;
};

// Replies in progress.
struct Replying {
  net::Signal wake;
  std::vector<ReplyResult> each;
  size_t open = 0;
};

}  // namespace

class TrainerService::State {
 public:
  State(net::Shard& shard, Trainer trainer, ServiceOptions options)
      : shard_(shard),
        trainer_(std::move(trainer)),
        options_(std::move(options)),
        nonce_(random_hex(32)),
        trainer_key_(hmac_sha256(nonce_, options_.trainer_key)),
        operator_key_(hmac_sha256(nonce_, options_.operator_key)),
        lease_timer_(shard.wheel()),
        server_(
            shard,
            [this](net::HttpRequest request, ResponseWriter* writer) {
              return handle(std::move(request), writer);
            },
            server_options()) {
    check_leases();
  }

  void serve(std::unique_ptr<net::Listener> listener) { server_.serve(std::move(listener)); }

  awaitable<void> stop(Deadline deadline) {
    lease_timer_.disarm();
    co_await server_.stop(deadline);
  }

 private:
  net::HttpServerOptions server_options() {
    net::HttpServerOptions options;
    options.log = options_.log;
    options.limits.body_bytes = 64 * 1024 * 1024;  // many answers with their tokens
    options.limits.bodies_bytes = options_.bodies_bytes;
    // Of one that is too large: who reads no answer before all is sent is to get one all the same.
    options.limits.discard_bytes = 1024 * 1024 * 1024;
    options.admit = [this](const net::HttpRequest& head) {
      net::Admission admission;
      auto asked = asked_by(head);
      if (!asked) {
        admission.refusal = std::move(asked).error();
      } else if (asked->row->whom == For::kEverybody) {
        admission.always = true;
      } else {
        admission.connections = asked->who == Who::kTrainer ? of_trainers_ : of_operators_;
      }
      return admission;
    };
    options.refuse = [](const net::HttpRequest&, int status, const Error& error) {
      return error_answer(status, error);
    };
    return options;
  }

  // A dead trainer's items come back to those who wait, though nobody asks anew.
  void check_leases() {
    trainer_.expire_leases();
    lease_timer_.arm(Deadline::in(kLeaseCheck), [this] { check_leases(); });
  }

  // What is answered at once, by the rollout's id and the body, or who answers by itself.
  using Given = Result<net::HttpResponse>;
  using AtOnce = Given (State::*)(const RolloutId& id, ByteView body);
  using InTime = awaitable<void> (State::*)(RolloutId id, net::HttpRequest request,
                                            ResponseWriter* writer);
  struct Row {
    std::string_view method;
    std::string_view path;  // "{id}" is a rollout's
    For whom;
    std::variant<AtOnce, InTime> answer;
  };

  // Digests of one length are compared, so that not even a key's length can be felt for.
  Who who_asks(const net::HttpRequest& request) const {
    const auto key = request.bearer();
    if (!key) return Who::kNobody;
    const Bytes shown = hmac_sha256(nonce_, *key);
    if (equal_in_constant_time(shown, trainer_key_)) return Who::kTrainer;
    if (equal_in_constant_time(shown, operator_key_)) return Who::kOperator;
    return Who::kNobody;
  }

  static std::optional<net::HttpResponse> refuse(const Row& row, Who who,
                                                 const net::HttpRequest& head) {
    // Whoever has no key sends no body, which would be read for nobody.
    if (row.whom == For::kEverybody && !head.announces_body()) return std::nullopt;
    if (who == Who::kNobody) return unauthenticated();
    const bool allowed = row.whom == For::kBoth || row.whom == For::kEverybody ||
                         (row.whom == For::kTrainer ? who == Who::kTrainer : who == Who::kOperator);
    if (allowed) return std::nullopt;
    return error_answer(Error(ErrorCode::kPermissionDenied,
                              row.whom == For::kTrainer
                                  ? "this needs the trainer's key, not the operator's"
                                  : "this needs the operator's key, not the trainer's"));
  }

  static net::HttpResponse unauthenticated() {
    net::HttpResponse response = error_answer(
        Error(ErrorCode::kUnauthenticated, "missing or wrong key: Authorization: Bearer KEY"));
    response.headers.add("WWW-Authenticate", "Bearer");
    return response;
  }

  struct Asked {
    const Row* row;
    RolloutId rollout;
    Who who;
  };
  // What a request is for, or what it is told instead: all that its head alone decides.
  tl::expected<Asked, net::HttpResponse> asked_by(const net::HttpRequest& head) const {
    const std::string path = net::percent_decode(head.path()).value_or("");
    const Who who = who_asks(head);
    std::string allow;
    for (const Row& row : kRows) {
      std::string id;
      if (!matches(row.path, path, &id)) continue;
      if (row.method != head.method) {
        allow += allow.empty() ? "" : ", ";
        allow += row.method;
        continue;
      }
      if (auto refused = refuse(row, who, head)) return tl::unexpected(std::move(*refused));
      return Asked{&row, {std::move(id)}, who};
    }
    // Whoever has no key learns nothing of what there is.
    if (who == Who::kNobody) return tl::unexpected(unauthenticated());
    if (allow.empty()) {
      return tl::unexpected(
          error_answer(Error(ErrorCode::kNotFound, "no such path; see /openapi.json")));
    }
    net::HttpResponse response =
        error_answer(405, Error(ErrorCode::kInvalidArgument, "use " + allow));
    response.headers.add("Allow", allow);
    return tl::unexpected(std::move(response));
  }

  // No coroutine itself: its frame would live as long as what it waits for.
  awaitable<void> handle(net::HttpRequest request, ResponseWriter* writer) {
    auto asked = asked_by(request);
    if (!asked) return writer->send_or_abort(std::move(asked).error());
    auto& [row, id, who] = *asked;
    // Who only watches may do so with the trainer's key, too.
    const bool works = row->whom == For::kTrainer || row->path == "/v1/state";
    if (who == Who::kTrainer && works) trainer_.lives();
    if (const auto* in_time = std::get_if<InTime>(&row->answer)) {
      return (this->**in_time)(std::move(id), std::move(request), writer);
    }
    return send(writer, (this->*std::get<AtOnce>(row->answer))(id, request.body));
  }

  static awaitable<void> send(ResponseWriter* writer, Given given) {
    return writer->send_or_abort(given ? std::move(*given) : error_answer(given.error()));
  }

  static Error not_ours(const RolloutId& id) {
    return Error(ErrorCode::kNotFound,
                 "rollout " + id.value + " is not open, or was not registered here");
  }

  // For load balancers and start-up scripts. Tells nothing but that there is a server.
  Given health(const RolloutId&, ByteView) { return json_answer(200, R"({"status":"ok"})"); }

  Given document(const RolloutId&, ByteView) { return json_answer(200, Bytes(kOpenapi)); }

  Given metrics(const RolloutId&, ByteView) {
    const auto load =
        options_.recorder == nullptr ? trace::Recorder::Load() : options_.recorder->load();
    return net::HttpResponse{200,
                             {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                             metrics_text(trainer_.state(), trainer_.totals(), load)};
  }

  Given state(const RolloutId&, ByteView) {
    return json_answer(200, state_json(trainer_.state(), trainer_.totals()));
  }

  Given renew(const RolloutId&, ByteView body) {
    SLUICE_TRY(const std::string name, trainer_from_json(body));
    trainer_.renew(name);
    return ok_answer();
  }

  Given give_back(const RolloutId&, ByteView body) {
    SLUICE_TRY(const std::string name, trainer_from_json(body));
    return json_answer(200, fmt::format(R"({{"given_back":{}}})", trainer_.give_back(name)));
  }

  Given pause(const RolloutId&, ByteView body) {
    SLUICE_TRY_VOID(nothing_from_json(body));
    trainer_.pause();
    return ok_answer();
  }

  Given resume(const RolloutId&, ByteView body) {
    SLUICE_TRY(auto version, text_from_json(body, "version"));
    trainer_.resume(std::move(version));
    return ok_answer();
  }

  Given cancel(const RolloutId& id, ByteView body) {
    SLUICE_TRY(const auto reason, text_from_json(body, "reason"));
    if (trainer_.cancel(id, reason.value_or("cancelled by the trainer"))) return ok_answer();
    return Error(ErrorCode::kNotFound, "rollout " + id.value + " is not open at this gate");
  }

  Given cancel_stale(const RolloutId&, ByteView body) {
    SLUICE_TRY(const uint64_t versions, count_from_json(body, "versions"));
    trainer_.cancel_stale(versions);
    return ok_answer();
  }

  Given register_rollout(const RolloutId&, ByteView body) {
    if (options_.agents == nullptr) {
      return Error(ErrorCode::kUnsupported,
                   "this gate serves its own rollouts only (see `sluice gate serve`)");
    }
    SLUICE_TRY(RegisterMessage message, registration_from_json(body));
    SLUICE_TRY(const auto opened,
               options_.agents->open(std::move(message.registration), message.lifetime));
    return json_answer(201, opened_json(opened, options_.agents_url));
  }

  // The books are on the rollout's own shard.
  awaitable<void> inspect(RolloutId id, net::HttpRequest, ResponseWriter* writer) {
    const auto asking = std::make_shared<Asking>();
    net::Shard* const shard = &shard_;
    trainer_.inspect(id, [asking, shard](std::shared_ptr<const Books> books) {
      shard->post([asking, books] {
        asking->books = books;
        asking->told = true;
        asking->wake.notify();
      });
    });
    while (!asking->told) {
      const auto waited = co_await net::wait_for(&asking->wake);
      if (!waited) break;
    }
    Given given = Error(ErrorCode::kNotFound,
                        "rollout " + id.value + " is not open, nor one of those closed last");
    if (asking->books) given = json_answer(200, books_json(*asking->books));
    co_await send(writer, std::move(given));
  }

  awaitable<void> close(RolloutId id, net::HttpRequest, ResponseWriter* writer) {
    const bool closed = options_.agents != nullptr && co_await options_.agents->close(id);
    Given given = closed ? Given(ok_answer()) : Given(not_ours(id));
    co_await send(writer, std::move(given));
  }

  // --- Taking ------------------------------------------------------------------------------------

  // Of the rollout, or of any if there is no id.
  awaitable<void> take(RolloutId id, net::HttpRequest request, ResponseWriter* writer) {
    auto message = take_from_json(request.body);
    request.body = Bytes();
    if (!message) {
      co_await send(writer, std::move(message).error());
      co_return;
    }
    if (!id.empty()) message->request.rollout = std::move(id);
    const auto taking = std::make_shared<Taking>();
    co_await wait_for_items(taking, *message, writer);
    if (!*taking->taken) {
      co_await send(writer, std::move(*taking->taken).error());
      co_return;
    }
    std::vector<Item> items = std::move(**taking->taken);
    bool arrived = false;
    if (!taking->gone) {
      BodyReader::Held held;
      auto away = put_away(items);
      if (!away.empty()) {
        held = co_await trainer_.bodies().read(std::move(away), options_.max_response);
      }
      if (auto work = to_find_out(items)) co_await trainer_.bodies().run(std::move(work));
      net::HttpResponse response = json_answer(200, render(items, message->canonical));
      held.clear();
      const auto sent = co_await writer->send(std::move(response));
      arrived = sent.has_value();
      if (!arrived) writer->abort();
    }
    // Until the trainer's side has acknowledged them they are ours: a trainer that died meanwhile
    // delays nobody by its lease.
    if (arrived && !items.empty()) {
      const Deadline deadline = Deadline::in(kDrain);
      const auto drained = co_await writer->drained(deadline);
      arrived = drained.has_value();
    }
    if (taking->gone) writer->abort();
    if (!arrived) trainer_.give_back(items);
  }

  awaitable<void> wait_for_items(std::shared_ptr<Taking> taking, TakeMessage message,
                                 ResponseWriter* writer) {
    net::Shard* const shard = &shard_;
    const auto waiting =
        trainer_.take(message.request, [taking, shard](Result<std::vector<Item>> items) {
          auto held = std::make_shared<Result<std::vector<Item>>>(std::move(items));
          shard->post([taking, held] {
            taking->taken = std::move(*held);
            taking->wake.notify();
          });
        });
    writer->on_peer_closed([taking](net::PeerClose) {
      taking->gone = taking->over = true;
      taking->wake.notify();
    });
    net::Wheel::Timer timer(shard_.wheel());
    if (message.wait > Duration::zero()) {
      timer.arm(Deadline::in(message.wait), [taking] {
        taking->over = true;
        taking->wake.notify();
      });
    } else {
      taking->over = true;
    }
    while (!taking->taken && !taking->over) {
      const auto waited = co_await net::wait_for(&taking->wake);
      if (!waited) taking->gone = taking->over = true;
    }
    timer.disarm();
    if (!taking->taken) trainer_.cancel(waiting);
    // Cancelled or just served, it tells so by this shard.
    while (!taking->taken) co_await taking->wake.wait();
    writer->on_peer_closed({});
  }

  // Of the items' requests those that are not at hand.
  static std::vector<llm::Body> put_away(const std::vector<Item>& items) {
    std::vector<llm::Body> bodies;
    for (const Item& item : items) {
      const llm::Call* const call = item.call();
      if (call != nullptr && !call->asked_at_hand()) bodies.push_back(call->body);
    }
    return bodies;
  }

  // How calls go on from earlier ones, where that is not known yet; nothing if there are none such.
  static std::function<void()> to_find_out(const std::vector<Item>& items) {
    std::vector<std::shared_ptr<const llm::Call>> calls;
    for (const Item& item : items) {
      const llm::Call* const call = item.call();
      const bool open = call != nullptr && call->parent && call->parent->is_open();
      if (open) calls.push_back(std::get<0>(item.what));
    }
    if (calls.empty()) return {};
    return [calls = std::move(calls)] {
      for (const auto& call : calls) call->parent->find_out(*call);
    };
  }

  // Items over the limit of one answer go back.
  Bytes render(std::vector<Item>& items, Canonical canonical) {
    Bytes out("{\"items\":[");
    size_t taken = 0;
    for (const Item& item : items) {
      if (taken > 0 && out.size() > options_.max_response) break;
      if (taken > 0) out.push_back(',');
      append_item(out, item, canonical);
      ++taken;
    }
    if (taken < items.size()) {
      const std::vector<Item> rest(items.begin() + static_cast<ptrdiff_t>(taken), items.end());
      trainer_.give_back(rest);
      items.resize(taken);
    }
    out.append("]}");
    return out;
  }

  // --- Replying ----------------------------------------------------------------------------------

  awaitable<void> reply(RolloutId, net::HttpRequest request, ResponseWriter* writer) {
    auto message = replies_from_json(request.body);
    request.body = Bytes();
    if (!message) {
      co_await send(writer, std::move(message).error());
      co_return;
    }
    if (!message->trainer.empty()) trainer_.renew(message->trainer);
    const auto replying = std::make_shared<Replying>();
    const auto until = message->for_outcome;
    for (auto& each : message->replies)
      start(replying, std::move(each), until ? Until::kEnded : Until::kRecorded);
    bool late = false;
    net::Wheel::Timer timer(shard_.wheel());
    if (until) {
      timer.arm(Deadline::in(*until), [replying, &late] {
        late = true;
        replying->wake.notify();
      });
    }
    while (replying->open > 0 && !late) {
      const auto waited = co_await net::wait_for(&replying->wake);
      if (!waited) break;
    }
    net::HttpResponse response = json_answer(200, results_json(replying->each));
    co_await writer->send_or_abort(std::move(response));
  }

  enum class Until : uint8_t { kRecorded, kEnded };
  void start(const std::shared_ptr<Replying>& replying, RepliesMessage::Each each, Until until) {
    const size_t index = replying->each.size();
    ReplyResult& out = replying->each.emplace_back();
    out.call = std::move(each.call);
    if (!each.reply) {
      out.error = std::move(each.reply).error();
      trainer_.reject(CallId{out.call}, out.error->message);
      return;
    }
    ++replying->open;
    net::Shard* const shard = &shard_;
    const auto done = [replying, shard, index](Result<void> accepted,
                                               std::optional<llm::Outcome> outcome) {
      shard->post([replying, index, accepted, outcome] {
        ReplyResult& mine = replying->each[index];
        if (!accepted) mine.error = accepted.error();
        mine.outcome = outcome;
        --replying->open;
        replying->wake.notify();
      });
    };
    const auto accepted = [done](Result<void> result) {
      done(result, std::nullopt);
    };
    ReplyMessage& message = *each.reply;
    if (auto* result = std::get_if<ToolResult>(&message.what)) {
      return trainer_.reply_tool(message.call, std::move(*result), accepted);
    }
    if (auto* piece = std::get_if<llm::Piece>(&message.what)) {
      return trainer_.piece(message.call, std::move(*piece), accepted);
    }
    Trainer::Replied told;
    if (until == Until::kEnded) {
      told.ended = [done](Result<llm::Outcome> outcome) {
        if (outcome) {
          done({}, *outcome);
        } else {
          done(outcome.error(), std::nullopt);
        }
      };
    } else {
      told.accepted = accepted;
    }
    Trainer::Reply given = llm::Refusal();
    if (auto* answer = std::get_if<llm::Answer>(&message.what)) {
      given = std::move(*answer);
    } else {
      given = std::get<llm::Refusal>(std::move(message.what));
    }
    trainer_.reply(message.call, std::move(given), std::move(told));
  }

  // --- Watching ----------------------------------------------------------------------------------

  struct Watching {
    net::Signal wake;
    bool gone = false;
    bool due = false;  // for a sign of life
  };

  awaitable<void> events(RolloutId, net::HttpRequest request, ResponseWriter* writer) {
    EventLog& log = trainer_.events();
    const auto watch = log.watch();
    std::string from(request.headers.get_or("Last-Event-ID", ""));
    if (from.empty()) from = request.parameter("after");
    const auto number = parse_decimal(from);
    uint64_t after = number ? *number : log.last();
    // What is ahead of us was counted by a gate before this one: nothing of this one was seen.
    if (after > log.last()) after = 0;
    if (watchers_ >= kMaxWatchers || (!from.empty() && !number)) {
      Error error = watchers_ >= kMaxWatchers
                        ? Error(ErrorCode::kExhausted, "too many watch the events already")
                        : Error(ErrorCode::kInvalidArgument, "after: must be a number");
      co_await send(writer, std::move(error));
      co_return;
    }
    ++watchers_;
    const auto watching = std::make_shared<Watching>();
    net::Headers headers(
        {{"Content-Type", "text/event-stream; charset=utf-8"}, {"Cache-Control", "no-cache"}});
    const auto started = co_await writer->start(200, std::move(headers));
    if (started) {
      writer->on_peer_closed([watching](net::PeerClose) {
        watching->gone = true;
        watching->wake.notify();
      });
      co_await write_events(watching, after, writer);
      writer->on_peer_closed({});
    }
    writer->abort();
    --watchers_;
  }

  awaitable<void> write_events(std::shared_ptr<Watching> watching, uint64_t after,
                               ResponseWriter* writer) {
    EventLog& log = trainer_.events();
    net::Wheel::Timer timer(shard_.wheel());
    while (!watching->gone) {
      uint64_t lost = 0;
      const auto records = log.behind(after, kMaxEventsAtOnce, &lost);
      Bytes out;
      if (lost > 0) net::append_sse(out, "lost", fmt::format(R"({{"events":{}}})", lost));
      after += lost;
      for (const EventLog::Record& record : records) {
        fmt::format_to(std::back_inserter(out), "id: {}\n", record.number);
        net::append_sse(out, record.type, record.data);
        after = record.number;
      }
      if (out.empty() && std::exchange(watching->due, false)) out = ": here\n\n";
      if (!out.empty()) {
        const auto written = co_await writer->write(std::move(out));
        if (!written) co_return;
        continue;
      }
      timer.arm(Deadline::in(options_.heartbeat), [watching] {
        watching->due = true;
        watching->wake.notify();
      });
      net::Shard* const shard = &shard_;
      const uint64_t waiter = log.wake_behind(
          after, [watching, shard] { shard->post([watching] { watching->wake.notify(); }); });
      const auto waited = co_await net::wait_for(&watching->wake);
      log.forget(waiter);
      if (!waited) co_return;
    }
  }

  net::Shard& shard_;
  Trainer trainer_;
  const ServiceOptions options_;
  const Bytes nonce_, trainer_key_, operator_key_;
  const std::shared_ptr<net::BodyBudget> of_trainers_ =
      std::make_shared<net::BodyBudget>(kConnections);
  const std::shared_ptr<net::BodyBudget> of_operators_ =
      std::make_shared<net::BodyBudget>(kConnections);
  net::Wheel::Timer lease_timer_;
  size_t watchers_ = 0;
  net::HttpServer server_;

 public:
  static constexpr std::array kRows{
      Row{"GET", "/health", For::kEverybody, &State::health},
      Row{"GET", "/openapi.json", For::kEverybody, &State::document},
      Row{"GET", "/metrics", For::kBoth, &State::metrics},
      Row{"GET", "/v1/state", For::kBoth, &State::state},
      Row{"GET", "/v1/events", For::kBoth, &State::events},
      Row{"POST", "/v1/next_batch", For::kTrainer, &State::take},
      Row{"POST", "/v1/rollouts/{id}/next", For::kTrainer, &State::take},
      Row{"POST", "/v1/reply", For::kTrainer, &State::reply},
      Row{"POST", "/v1/renew", For::kTrainer, &State::renew},
      Row{"POST", "/v1/give_back", For::kTrainer, &State::give_back},
      Row{"POST", "/v1/pause", For::kTrainer, &State::pause},
      Row{"POST", "/v1/resume", For::kTrainer, &State::resume},
      Row{"POST", "/v1/rollouts/{id}/cancel", For::kTrainer, &State::cancel},
      Row{"POST", "/v1/cancel_stale", For::kTrainer, &State::cancel_stale},
      Row{"POST", "/v1/rollouts", For::kOperator, &State::register_rollout},
      Row{"GET", "/v1/rollouts/{id}", For::kBoth, &State::inspect},
      Row{"DELETE", "/v1/rollouts/{id}", For::kOperator, &State::close},
  };
};

std::vector<Route> routes() {
  std::vector<Route> out;
  for (const auto& row : TrainerService::State::kRows) out.push_back({row.method, row.path});
  return out;
}

TrainerService::TrainerService(std::unique_ptr<State> state) : state_(std::move(state)) {}
TrainerService::~TrainerService() = default;

Result<std::unique_ptr<TrainerService>> TrainerService::make(net::Shard& shard, Trainer trainer,
                                                             ServiceOptions options) {
  if (options.trainer_key.size() < kMinKey || options.operator_key.size() < kMinKey) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("the keys of the trainer API have at least {} characters", kMinKey),
                 ErrorOrigin::kCaller);
  }
  if (options.trainer_key == options.operator_key) {
    return Error(ErrorCode::kInvalidArgument,
                 "the trainer's and the operator's key must not be the same", ErrorOrigin::kCaller);
  }
  options.log.redactor().add_secret(options.trainer_key);
  options.log.redactor().add_secret(options.operator_key);
  auto state = std::make_unique<State>(shard, std::move(trainer), std::move(options));
  return std::unique_ptr<TrainerService>(new TrainerService(std::move(state)));
}

void TrainerService::serve(std::unique_ptr<net::Listener> listener) {
  state_->serve(std::move(listener));
}

awaitable<void> TrainerService::stop(Deadline deadline) {
  return state_->stop(deadline);
}

}  // namespace sluice::gate::trainer_http
