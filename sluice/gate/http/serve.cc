#include "sluice/gate/http/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/gate/http/mcp.h"
#include "sluice/gate/http/routes.h"
#include "sluice/json/text.h"

namespace sluice::gate::http {
namespace {

using llm::Outcome;
using llm::Problem;
using net::awaitable;
using net::ResponseWriter;
using State = ParkedCall::State;

constexpr std::string_view kJson = "application/json";
constexpr size_t kMaxHeaderValue = 256;  // of those that are kept with a call

const llm::Codec& codec_for_errors(llm::Dialect dialect) {
  const llm::Codec* codec = llm::find_codec(dialect);
  return codec != nullptr ? *codec : *llm::find_codec(llm::Dialect::kChat);
}

net::Headers stream_headers(const llm::Codec& codec, const llm::Envelope& envelope) {
  return {{"Content-Type", std::string(codec.stream_type(envelope))},
          {"Cache-Control", "no-cache"}};
}

net::HttpResponse error_response(const llm::Codec& codec, const Problem& problem) {
  llm::ErrorReply reply = codec.error(problem);
  net::HttpResponse response;
  response.status = reply.status;
  response.headers.add("Content-Type", std::string(kJson));
  response.body = std::move(reply.body);
  return response;
}

net::HttpResponse ok(std::string_view content_type, Bytes body) {
  net::HttpResponse response;
  response.headers.add("Content-Type", std::string(content_type));
  response.body = std::move(body);
  return response;
}

Problem problem_of(ErrorCode kind, std::string message) {
  Problem problem;
  problem.kind = kind;
  problem.message = std::move(message);
  return problem;
}

std::string header(const net::HttpRequest& request, std::string_view name) {
  if (name.empty()) return {};
  const std::string_view value = request.headers.get_or(name, "");
  // Longer ones name nothing that an agent was ever seen to send; equal prefixes may not meet.
  return value.size() <= kMaxHeaderValue ? std::string(value) : xxh3_128(value).hex();
}

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         net::equal_ignoring_case(text.substr(0, prefix.size()), prefix);
}

// Headers by which vendors version their API; nothing that authenticates.
std::vector<std::pair<std::string, std::string>> vendor_headers(const net::HttpRequest& request) {
  constexpr std::array<std::string_view, 2> kPrefixes{"openai-", "anthropic-"};
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [name, value] : request.headers.fields()) {
    for (const std::string_view prefix : kPrefixes) {
      if (starts_with_ignoring_case(name, prefix) && value.size() <= kMaxHeaderValue) {
        out.emplace_back(name, value);
      }
    }
  }
  return out;
}

Arrival arrival_of(const OpenRollout& rollout, const Route& route, net::HttpRequest request) {
  const SessionHeaders& names = rollout.registration().session_headers;
  Arrival arrival;
  arrival.codec = llm::find_codec(route.dialect);
  arrival.dialect = route.dialect;
  arrival.target = route.target;
  arrival.session = {header(request, names.session), header(request, names.parent)};
  for (const std::string_view name : {"x-client-request-id", "idempotency-key"}) {
    if (arrival.request_id.empty()) arrival.request_id = header(request, name);
  }
  const auto retries = parse_decimal(request.headers.get_or("x-stainless-retry-count", "0"));
  arrival.retry_count = static_cast<uint32_t>(std::min<uint64_t>(retries.value_or(0), 1000));
  arrival.headers = vendor_headers(request);
  arrival.body = std::make_shared<const Bytes>(std::move(request.body));
  return arrival;
}

// A whole response of which no books are kept: whether the agent got it changes nothing.
awaitable<void> send(ResponseWriter* writer, net::HttpResponse response) {
  const auto sent = co_await writer->send(std::move(response));
  if (!sent) writer->abort();
}

// One connection's part in one call.
class Delivery {
 public:
  Delivery(std::shared_ptr<OpenRollout> rollout, const llm::Codec& codec, ResponseWriter* writer)
      : rollout_(std::move(rollout)),
        codec_(codec),
        writer_(writer),
        keep_alive_(rollout_->shard().wheel()) {}

  ~Delivery() {
    writer_->on_peer_closed({});
    if (parked_) rollout_->detach(parked_, &waiter_);
  }
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  // Decides what the connection gets, and returns the work of giving it. Only the frames of that
  // work live while a call is parked: who decides is no coroutine.
  static awaitable<void> run(std::shared_ptr<OpenRollout> rollout, const llm::Codec& codec,
                             ResponseWriter* writer, Arrival arrival) {
    auto delivery = std::make_unique<Delivery>(std::move(rollout), codec, writer);
    awaitable<void> work = delivery->begin(std::move(arrival));
    return keep(std::move(delivery), std::move(work));
  }

 private:
  awaitable<void> begin(Arrival arrival) {
    OpenRollout::Judged judged = rollout_->arrive(std::move(arrival), &waiter_);
    if (const auto* problem = std::get_if<Problem>(&judged)) {
      return send(writer_, error_response(codec_, *problem));
    }
    if (auto* delivered = std::get_if<Delivered>(&judged)) return repeat(std::move(*delivered));
    parked_ = std::get<std::shared_ptr<ParkedCall>>(std::move(judged));
    envelope_ = llm::envelope(*parked_->call);
    watch();
    return parked_->relay ? relay() : wait_and_conclude();
  }
  static awaitable<void> keep(std::unique_ptr<Delivery> delivery, awaitable<void> work) {
    co_await std::move(work);
    delivery.reset();
  }
  awaitable<void> wait_and_conclude() {
    co_await wait();
    co_await conclude();
  }

  bool stream() const { return parked_->call->stream; }

  void watch() {
    writer_->on_peer_closed([this](net::PeerClose how) {
      // While an answer is relayed, the end of the agent's side may be no more than that.
      if (how == net::PeerClose::kFin && relaying_) return;
      waiter_.hung_up = true;
      waiter_.wake.notify();
    });
  }

  // The same answer again, to an agent that lost it.
  awaitable<void> repeat(Delivered delivered) {
    net::HttpResponse response =
        delivered.stream ? ok(codec_.stream_type(delivered.envelope),
                              codec_.streamed(delivered.envelope, *delivered.answer))
                         : ok(kJson, codec_.plain(delivered.envelope, *delivered.answer));
    rollout_->count_answer_bytes(response.body.size());
    co_await send(writer_, std::move(response));
  }

  // Until the call is answered or ended, or the agent is gone.
  awaitable<void> wait() {
    const GateOptions& options = rollout_->options();
    const bool frames = stream() || options.plain_keep_alive == PlainKeepAlive::kWhiteSpace;
    if (parked_->state == State::kOpen && stream() && !waiter_.hung_up) {
      // At once: some agents give up on a call without headers after a minute.
      net::Headers headers = stream_headers(codec_, envelope_);
      const auto started = co_await writer_->start(200, std::move(headers));
      if (!started) waiter_.hung_up = true;
    }
    while (parked_->state == State::kOpen && !waiter_.hung_up) {
      if (rollout_->goes_ahead(*parked_)) {
        Bytes piece = codec_.piece(envelope_, llm::whole_characters(*parked_->so_far));
        if (!piece.empty()) {
          co_await send_piece(std::move(piece));
          continue;
        }
      }
      if (waiter_.due) {
        waiter_.due = false;
        co_await send_keep_alive();
        continue;
      }
      if (frames && !keep_alive_.armed()) {
        const Deadline next = Deadline::in(options.keep_alive);
        keep_alive_.arm(next, [this] {
          waiter_.due = true;
          waiter_.wake.notify();
        });
      }
      co_await waiter_.wake.wait();
    }
    keep_alive_.disarm();
  }

  awaitable<void> send_piece(Bytes piece) {
    rollout_->count_answer_bytes(piece.size());
    const auto written = co_await writer_->write(std::move(piece));
    if (!written) waiter_.hung_up = true;
  }

  awaitable<void> send_keep_alive() {
    if (!writer_->started()) {
      net::Headers headers({{"Content-Type", std::string(kJson)}});
      const auto started = co_await writer_->start(200, std::move(headers));
      if (!started) waiter_.hung_up = true;
      if (!started) co_return;
    }
    Bytes frame = stream() ? codec_.keep_alive(envelope_) : Bytes("\n");
    const auto written = co_await writer_->write(std::move(frame));
    if (!written) waiter_.hung_up = true;
    ++envelope_.keep_alives;
  }

  // Whatever the wait came to: the answer, an error, or nobody there to tell.
  awaitable<void> conclude() {
    if (waiter_.hung_up) {
      rollout_->hung_up(parked_, &waiter_);
      writer_->abort();
      co_return;
    }
    // A call that another connection's delivery has ended is answered here all the same.
    if (parked_->state == State::kEnded && !parked_->answer) {
      const Problem problem = parked_->problem.value_or(superseded());
      co_await send_problem(problem);
      co_return;
    }
    const bool arrived = co_await send_answer();
    if (arrived) {
      rollout_->delivered(parked_, &waiter_);
    } else {
      rollout_->hung_up(parked_, &waiter_);
      writer_->abort();
    }
  }

  static Problem superseded() {
    return problem_of(ErrorCode::kCancelled, "this call was ended in favour of another");
  }

  // True when the agent's side has acknowledged the last byte.
  awaitable<bool> send_answer() {
    const std::shared_ptr<const llm::Answer> answer = parked_->answer;
    Bytes body = stream() ? codec_.streamed(envelope_, *answer) : codec_.plain(envelope_, *answer);
    const size_t bytes = body.size();
    const auto sent = co_await send_body(std::move(body));
    rollout_->count_answer_bytes(bytes);
    if (!sent) co_return false;
    const Deadline deadline = Deadline::in(rollout_->options().delivery_timeout);
    const auto drained = co_await writer_->drained(deadline);
    co_return drained.has_value();
  }

  awaitable<Result<void>> send_body(Bytes body) {
    if (!writer_->started()) {
      net::HttpResponse response =
          ok(stream() ? codec_.stream_type(envelope_) : kJson, std::move(body));
      co_return co_await writer_->send(std::move(response));
    }
    co_return co_await writer_->finish(std::move(body));
  }

  awaitable<void> send_problem(Problem problem) {
    if (!writer_->started()) {
      net::HttpResponse response = error_response(codec_, problem);
      co_await send(writer_, std::move(response));
      co_return;
    }
    // The status is spent.
    std::vector<std::string> pieces;
    if (stream()) {
      pieces = codec_.streamed_error(envelope_, problem);
    } else {
      pieces.push_back(codec_.error(problem).body);
    }
    const auto sent = co_await send_pieces(std::move(pieces));
    if (!sent) writer_->abort();
  }

  // Each alone, as some clients must read them; the last with the end.
  awaitable<Result<void>> send_pieces(std::vector<std::string> pieces) {
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      SLUICE_CO_TRY_VOID(co_await writer_->write(std::move(pieces[i])));
      SLUICE_CO_TRY_VOID(co_await net::sleep_for(llm::kBetweenPieces));
    }
    co_return co_await writer_->finish(std::move(pieces.back()));
  }

  // An answer that comes through from elsewhere. Runs in a task of its own, which the agent's
  // leaving, or the rollout's end, cancels.
  awaitable<void> relay() {
    relaying_ = true;
    net::TaskGroup task(rollout_->shard().executor());
    task.spawn(copy());
    while (!copied_ && !waiter_.hung_up && parked_->state == State::kOpen) {
      co_await waiter_.wake.wait();
    }
    if (!copied_) task.cancel();
    co_await task.join();
    finish_relay();
  }

  awaitable<void> copy() {
    const auto copied = co_await copy_pieces();
    if (!copied) {
      failure_ = copied.error();
      // Nothing sent: the agent can still be told. Else it must see that the answer is broken.
      if (writer_->started() || waiter_.hung_up || parked_->state != State::kOpen) {
        writer_->abort();
      } else {
        const Problem problem = problem_of(failure_->code, "the model endpoint did not answer");
        co_await send_problem(problem);
      }
    }
    copied_ = true;
    waiter_.wake.notify();
  }

  awaitable<Result<void>> copy_pieces() {
    const std::shared_ptr<ParkedCall> parked = parked_;
    Relay* source = parked->relay.get();
    SLUICE_CO_TRY_VOID(co_await source->open());
    status_ = source->status();
    first_byte_ = Clock::now();
    net::Headers headers = source->headers();
    if (auto started = co_await writer_->start(status_, std::move(headers)); !started) {
      waiter_.hung_up = true;
      co_return std::move(started).error();
    }
    for (;;) {
      SLUICE_CO_TRY(Bytes piece, co_await source->read_some());
      if (piece.empty()) break;
      bytes_ += piece.size();
      if (auto written = co_await writer_->write(std::move(piece)); !written) {
        waiter_.hung_up = true;
        co_return std::move(written).error();
      }
    }
    auto finished = co_await writer_->finish();
    if (finished) {
      const Deadline deadline = Deadline::in(rollout_->options().delivery_timeout);
      finished = co_await writer_->drained(deadline);
    }
    if (!finished) waiter_.hung_up = true;
    co_return finished;
  }

  void finish_relay() {
    const auto ms = [this](Clock::time_point at) {
      return std::chrono::duration<double, std::milli>(at - began_).count();
    };
    Bytes detail =
        fmt::format(R"({{"call":"{}","status":{},"request_bytes":{},"answer_bytes":{},)",
                    parked_->call->id.value, status_, parked_->call->body->size(), bytes_);
    if (first_byte_) detail += fmt::format(R"("head_ms":{:.3f},)", ms(*first_byte_));
    detail += fmt::format(R"("end_ms":{:.3f}}})", ms(Clock::now()));
    rollout_->event("relay", detail);
    rollout_->count_answer_bytes(bytes_);

    Outcome outcome = Outcome::kDelivered;
    std::string why = fmt::format("status {}, {} bytes", status_, bytes_);
    if (waiter_.hung_up) {
      outcome = Outcome::kUndelivered;
      why = "the agent hung up: " + why;
    } else if (failure_) {
      outcome = Outcome::kFailed;
      why = failure_->message;
    } else if (status_ >= 400) {
      outcome = Outcome::kFailed;
    }
    rollout_->relayed(parked_, outcome, why);
  }

  const std::shared_ptr<OpenRollout> rollout_;
  const llm::Codec& codec_;
  ResponseWriter* const writer_;
  Waiter waiter_;
  net::Wheel::Timer keep_alive_;
  std::shared_ptr<ParkedCall> parked_;
  llm::Envelope envelope_;

  // Of a relayed answer.
  bool relaying_ = false;
  bool copied_ = false;
  int status_ = 0;
  uint64_t bytes_ = 0;
  std::optional<Error> failure_;
  const Clock::time_point began_ = Clock::now();
  std::optional<Clock::time_point> first_byte_;
};

awaitable<void> send_problem(std::shared_ptr<OpenRollout> rollout, llm::Dialect dialect,
                             Problem problem, int status, std::string allow,
                             ResponseWriter* writer) {
  rollout->note_refusal(problem);
  net::HttpResponse response = error_response(codec_for_errors(dialect), problem);
  response.status = status;
  if (!allow.empty()) response.headers.add("Allow", std::move(allow));
  co_await send(writer, std::move(response));
}

// No call: nobody is asked, nothing is kept.
net::HttpResponse count_tokens(OpenRollout& rollout, const llm::Codec& codec,
                               const llm::Target& target, const Bytes& body) {
  auto counted = codec.count_tokens(rollout.peeker(), body, target);
  if (counted) return ok(kJson, std::move(*counted));
  const Problem problem = Problem::of(counted.error());
  rollout.note_refusal(problem);
  return error_response(codec, problem);
}

}  // namespace

// No coroutine itself: its frame, with room for every kind of answer, would live as long as a
// parked call.
awaitable<void> handle(std::shared_ptr<OpenRollout> rollout, net::HttpRequest request,
                       ResponseWriter* writer) {
  const Registration& registration = rollout->registration();
  Route found = route(request, registration.id);
  const llm::Codec& codec = codec_for_errors(found.dialect);
  const auto refuse = [&](ErrorCode kind, std::string message, int status) {
    return send_problem(rollout, found.dialect, problem_of(kind, std::move(message)), status,
                        std::string(found.allow), writer);
  };
  switch (found.kind) {
    case Route::Kind::kCall:
    case Route::Kind::kCount: {
      if (!registration.dialects.contains(found.dialect)) {
        return refuse(
            ErrorCode::kNotFound,
            fmt::format("this endpoint does not speak the dialect {}", to_string(found.dialect)),
            404);
      }
      const std::string_view encoding = request.headers.get_or("Content-Encoding", "identity");
      if (!net::equal_ignoring_case(encoding, "identity")) {
        return refuse(ErrorCode::kInvalidArgument, "compressed request bodies are not accepted",
                      415);
      }
      if (found.kind == Route::Kind::kCount) {
        return send(writer, count_tokens(*rollout, codec, found.target, request.body));
      }
      Arrival arrival = arrival_of(*rollout, found, std::move(request));
      return Delivery::run(std::move(rollout), codec, writer, std::move(arrival));
    }
    case Route::Kind::kModels:
      return send(writer, ok(kJson, codec.models(registration.models)));
    case Route::Kind::kModel: {
      const auto& models = registration.models;
      if (std::find(models.begin(), models.end(), found.target.model) != models.end()) {
        return send(writer, ok(kJson, codec.model(found.target.model)));
      }
      Problem problem = problem_of(ErrorCode::kNotFound, "no such model");
      problem.code = "model_not_found";
      return send_problem(std::move(rollout), found.dialect, std::move(problem), 404, "", writer);
    }
    case Route::Kind::kMcp:
      return serve_mcp(std::move(rollout), std::move(request), writer);
    case Route::Kind::kTool:
      return serve_tool(std::move(rollout), std::move(found.tool), std::move(request), writer);
    case Route::Kind::kExit:
      rollout->agent_exited();
      return send(writer, ok(kJson, R"({"status": "ok"})"));
    case Route::Kind::kAlive:
      return send(writer, ok(kJson, ""));
    case Route::Kind::kWrongMethod:
      return refuse(ErrorCode::kInvalidArgument,
                    fmt::format("{} is not allowed here; use {}", request.method, found.allow),
                    405);
    case Route::Kind::kOtherRollout:
      return refuse(ErrorCode::kNotFound, "rollout not found", 404);
    case Route::Kind::kUnknown:
      break;
  }
  return refuse(ErrorCode::kNotFound, "no such path", 404);
}

net::HttpResponse refuse_early(OpenRollout& rollout, const net::HttpRequest& request, int status,
                               const Error& error) {
  const Route found = route(request, rollout.registration().id);
  const Problem problem = problem_of(error.code, error.message);
  rollout.note_refusal(problem);
  net::HttpResponse response = error_response(codec_for_errors(found.dialect), problem);
  response.status = status;
  return response;
}

}  // namespace sluice::gate::http
