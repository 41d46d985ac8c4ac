// Agents whose connections break in every way, and a trainer that dies and changes its weights:
// every call has one outcome, and agents, trainer, trace and books agree on it. Run under TSan.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/gate/testing.h"
#include "sluice/gate/threads_testing.h"
#include "sluice/json/peek.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/history.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using llm::Outcome;
using testing::kForever;
using testing::request_text;
using testing::ThreadsTest;

// The trace of a test, by what was asked; `disk` is told the same.
class Books final : public trace::Recorder {
 public:
  struct Entry {
    RolloutId rollout;
    std::shared_ptr<const Bytes> body;
    llm::Answer answer;
    int answers = 0, ends = 0, confirmations = 0;
    Outcome outcome = Outcome::kFailed;
  };

  explicit Books(trace::Recorder& disk) : disk_(disk) {}

  void opened(const RolloutId& rollout, const trace::RolloutInfo& info) override {
    disk_.opened(rollout, info);
  }
  void arrived(const llm::Call& call) override {
    disk_.arrived(call);
    const std::lock_guard lock(mutex_);
    Entry& entry = calls_[call.id];
    entry.rollout = call.rollout;
    entry.body = call.body.in_memory();
  }
  void answered(const llm::Call& call, const llm::Answer& answer) override {
    disk_.answered(call, answer);
    const std::lock_guard lock(mutex_);
    ++calls_[call.id].answers;
    calls_[call.id].answer = answer;
  }
  void ended(const llm::Call& call, Outcome outcome, std::string_view detail) override {
    disk_.ended(call, outcome, detail);
    const std::lock_guard lock(mutex_);
    ++calls_[call.id].ends;
    calls_[call.id].outcome = outcome;
  }
  void confirmed(const llm::Call& call) override {
    disk_.confirmed(call);
    const std::lock_guard lock(mutex_);
    ++calls_[call.id].confirmations;
  }
  void event(const RolloutId& rollout, const trace::Event& event) override {
    disk_.event(rollout, event);
  }
  void closed(const RolloutId& rollout, const trace::ResultSummary& summary) override {
    disk_.closed(rollout, summary);
  }
  void flush(const RolloutId& rollout, net::Shard& shard, Flushed told) override {
    disk_.flush(rollout, shard, std::move(told));
  }
  std::string location(const RolloutId& rollout) const override { return disk_.location(rollout); }

  bool all_answered(const RolloutId& rollout) const {
    const std::lock_guard lock(mutex_);
    return std::all_of(calls_.begin(), calls_.end(), [&](const auto& call) {
      return call.second.rollout != rollout || call.second.answers > 0;
    });
  }
  std::multimap<std::string, Entry> by_body() const {
    const std::lock_guard lock(mutex_);
    std::multimap<std::string, Entry> out;
    for (const auto& [id, entry] : calls_) out.emplace(*entry.body, entry);
    return out;
  }

 private:
  trace::Recorder& disk_;
  mutable std::mutex mutex_;
  std::map<CallId, Entry> calls_;
};

// How one request of an agent goes.
enum class Fate {
  kServed,          // reads its answer
  kCutWhileParked,  // resets before the answer, and comes back
  kCutAfterAnswer,  // never acknowledges the answer, resets, and comes back
  kFinWhileParked,  // ends its side before the answer, and comes back
  kGone,            // resets and does not come back
  kTwice,           // asks on two connections at once
  kCutInKeepAlive,  // resets when it has seen a sign of life, and comes back
  kCutInAnswer,     // resets when it has seen the answer's beginning, and comes back
  kLateTwin,        // the request before this one arrives once more, beside or behind it
};
constexpr int kFates = 9;

// An agent on the shard: one coroutine that makes `calls` requests, each with one of the fates.
// They are turns of conversations, in which it says again what it has got; when it has lost an
// answer it begins another.
class FaultyAgent {
 public:
  struct Asked {
    std::string question;
    std::string body;
    Fate fate = Fate::kServed;
    bool goes_on = false;  // its body holds the request before it, and the answer to that
    int resends = 0;       // of whatever request, in its course
    std::string got;       // what its answer says
  };

  FaultyAgent(net::MemoryListener* listener, int number, int calls, std::vector<Fate> fates,
              unsigned seed, std::atomic<int>* in_wait)
      : listener_(listener),
        number_(number),
        calls_(calls),
        fates_(std::move(fates)),
        random_(seed * 1000 + static_cast<unsigned>(number)),
        in_wait_(in_wait) {}

  net::awaitable<void> run() {
    std::string history;
    for (int i = 0; i < calls_; ++i) {
      Asked* const now = &asked.emplace_back();
      now->question = std::to_string(number_) + "." + std::to_string(i);
      // What comes behind the last one could not tell that it has arrived.
      now->fate = i + 1 == calls_ ? Fate::kServed : fates_[random_() % fates_.size()];
      if (i % kTurns == 0 || asked[asked.size() - 2].fate == Fate::kGone) history.clear();
      now->goes_on = !history.empty();
      if (now->goes_on) history += ',';
      history += R"({"role":"user","content":")" + now->question + "\"}";
      now->body =
          R"({"model":"m","messages":[)" + history + (i % 2 == 0 ? R"(],"stream":true})" : "]}");
      auto* const before = i == 0 ? nullptr : &asked[asked.size() - 2];
      co_await ask(now, before);
      history += R"(,{"role":"assistant","content":")" + now->got + "\"}";
    }
    done = true;
  }

  std::deque<Asked> asked;
  int cut_in_keep_alive = 0;
  std::atomic<bool> done = false;

 private:
  static constexpr int kTurns = 6;
  static constexpr std::string_view kContent = "\"content\":\"";
  static constexpr std::string_view kSignOfLife = testing::kChatKeepAlive;

  // So little fits between the two that nobody can have sent much of what nobody has read.
  static constexpr size_t kNarrow = 16;

  net::awaitable<void> ask(Asked* now, const Asked* before) {
    const bool narrow = now->fate == Fate::kCutInKeepAlive || now->fate == Fate::kCutInAnswer;
    auto stream = narrow ? listener_->connect(kNarrow) : listener_->connect();
    co_await send(stream.get(), now->body);
    const std::vector<std::string_view> answer{"\"content\":\"answer"};
    switch (now->fate) {
      case Fate::kServed:
        now->got = co_await read_answer(stream.get());
        co_return;
      case Fate::kTwice: {
        auto second = listener_->connect();
        co_await send(second.get(), now->body);
        ++now->resends;
        now->got = co_await read_answer(stream.get());
        const std::string same = co_await read_answer(second.get());
        EXPECT_EQ(same, now->got);
        co_return;
      }
      case Fate::kLateTwin: {
        // What was never answered cannot come late.
        const bool late = before != nullptr && before->fate != Fate::kGone;
        const bool behind = random_() % 2 == 0;
        if (late && !behind) co_await ask_again(now, before);
        now->got = co_await read_answer(stream.get());
        if (late && behind) co_await ask_again(now, before);
        co_return;
      }
      case Fate::kCutAfterAnswer: {
        stream->set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
        // The answer may or may not be there: both are cut.
        const auto slept = co_await net::sleep_for(pause());
        if (slept) stream->reset();
        break;
      }
      case Fate::kFinWhileParked: {
        stream->finish();
        const auto slept = co_await net::sleep_for(pause());
        if (slept) stream->close();
        break;
      }
      case Fate::kCutInKeepAlive: {
        // An answer may come first, and to a plain call nothing else: it is cut as well.
        const bool streamed = now->body.ends_with("\"stream\":true}");
        if (streamed) ++*in_wait_;
        const std::vector<std::string_view> signs{kSignOfLife, kContent};
        const std::string seen = co_await read_to(stream.get(), signs);
        if (streamed) --*in_wait_;
        if (seen.ends_with(kSignOfLife)) ++cut_in_keep_alive;
        stream->reset();
        break;
      }
      case Fate::kCutInAnswer:
        co_await read_to(stream.get(), answer);
        stream->reset();
        break;
      case Fate::kCutWhileParked:
        stream->reset();
        break;
      case Fate::kGone:
        stream->reset();
        co_return;
    }
    auto again = listener_->connect();
    co_await send(again.get(), now->body);
    ++now->resends;
    now->got = co_await read_answer(again.get());
  }

  // What was delivered comes again as it was.
  net::awaitable<void> ask_again(Asked* now, const Asked* earlier) {
    auto stream = listener_->connect();
    co_await send(stream.get(), earlier->body, "\r\nx-stainless-retry-count: 1");
    ++now->resends;
    const std::string same = co_await read_answer(stream.get());
    EXPECT_EQ(same, earlier->got);
  }

  net::awaitable<void> send(net::MemoryStream* stream, std::string body, std::string more = "") {
    const std::string text = request_text(body, "x-session-id: " + std::to_string(number_) + more);
    const auto written = co_await stream->write_all(as_byte_span(text));
    EXPECT_TRUE(written);
  }

  // What has come when one of `ends` has.
  static net::awaitable<std::string> read_to(net::MemoryStream* stream,
                                             std::vector<std::string_view> ends) {
    std::string seen;
    std::string buffer(1, '\0');
    while (std::none_of(ends.begin(), ends.end(),
                        [&](std::string_view end) { return seen.ends_with(end); })) {
      const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
      if (!n || *n == 0) {
        ADD_FAILURE() << "neither answer nor sign of life: " << seen;
        co_return "";
      }
      seen += buffer;
    }
    co_return seen;
  }

  // What an answer says that was read to its end.
  static net::awaitable<std::string> read_answer(net::MemoryStream* stream) {
    std::string seen;
    std::string buffer(4096, '\0');
    while (seen.find("data: [DONE]\n\n") == std::string::npos &&
           seen.find("\"finish_reason\":\"stop\"}]}") == std::string::npos) {
      const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
      if (!n || *n == 0) {
        ADD_FAILURE() << "no whole answer: " << seen;
        co_return "";
      }
      seen.append(buffer, 0, *n);
    }
    std::string content;
    for (size_t at = seen.find(kContent); at != std::string::npos; at = seen.find(kContent, at)) {
      at += kContent.size();
      content += seen.substr(at, seen.find('"', at) - at);
    }
    co_return content;
  }

  Duration pause() { return std::chrono::microseconds(random_() % 3000); }

  net::MemoryListener* listener_;
  int number_, calls_;
  std::vector<Fate> fates_;
  std::mt19937 random_;
  std::atomic<int>* in_wait_;  // how many wait for a sign of life
};

// Answers everything until it has seen the end of `rollouts` rollouts. Now and then it dies with
// what it has taken and starts again, or pauses the gate and resumes under new weights.
class FaultyTrainer {
 public:
  FaultyTrainer(Trainer trainer, int rollouts, unsigned seed,
                const std::atomic<int>* agents_in_wait)
      : trainer_(std::move(trainer)),
        rollouts_(rollouts),
        random_(seed),
        agents_in_wait_(agents_in_wait) {}

  void run() {
    std::vector<std::future<Result<Outcome>>> waiting;
    TakeRequest request;
    request.max = 4;  // many takes, so that every fault comes
    request.taker = {"trainer", kForever, Taker::Start::kContinue};
    while (rollouts_ > 0) {
      const auto items = trainer_.take(request, kForever);
      ASSERT_TRUE(items);
      const auto dice = random_() % 16;
      if (dice == 0) {
        ++deaths;
        request.taker.start = Taker::Start::kAfresh;
        continue;
      }
      request.taker.start = Taker::Start::kContinue;
      if (dice == 1) {
        trainer_.pause();
        // Whoever waits for a sign of life sees one.
        while (*agents_in_wait_ > 0) std::this_thread::sleep_for(1ms);
      }
      for (const Item& item : *items) {
        if (item.ended() != nullptr) {
          --rollouts_;
          continue;
        }
        const llm::Call* call = item.call();
        taken.insert(call->id);
        waiting.push_back(trainer_.reply(
            call->id, llm::text_answer("answer to " + call->request().value()->messages.back().text,
                                       llm::Origin::kSampled)));
      }
      if (dice == 1) trainer_.resume("step-" + std::to_string(++versions));
    }
    replies = waiting.size();
    for (auto& future : waiting) {
      const auto outcome = future.get();
      if (outcome) {
        ++outcomes[static_cast<size_t>(*outcome)];
      } else {
        // It had ended; or it was taken again by who had answered it and died at once.
        EXPECT_EQ(outcome.error().code, ErrorCode::kFailedPrecondition);
        ++not_taken;
      }
    }
  }

  std::set<CallId> taken;
  size_t replies = 0;
  size_t not_taken = 0;  // of them
  int deaths = 0, versions = 0;
  std::array<uint64_t, 6> outcomes{};

 private:
  Trainer trainer_;
  int rollouts_;
  std::mt19937 random_;
  const std::atomic<int>* agents_in_wait_;
};

// What is on disk of a rollout says of each of its calls what the recorder was told.
void expect_trace_is(const trace::Trace& trace, const std::multimap<std::string, Books::Entry>& of,
                     size_t* calls) {
  EXPECT_EQ(trace.broken_lines, 0u);
  *calls += trace.calls.size();
  for (const trace::CallRecord& call : trace.calls) {
    const auto body = trace.body(call);
    ASSERT_TRUE(body) << body.error().message;
    const auto entry = of.find(std::string(*body));
    ASSERT_NE(entry, of.end()) << *body;
    EXPECT_EQ(call.outcome, entry->second.outcome) << *body;
    EXPECT_EQ(call.answer.has_value(), entry->second.answers == 1) << *body;
    EXPECT_EQ(call.confirmed, entry->second.confirmations == 1) << *body;
  }
}

// Signs of life come often here, so that connections break in the midst of them.
class FaultsTest : public ThreadsTest {
 protected:
  FaultsTest() : ThreadsTest(1ms), directory_(::testing::TempDir() + "sluice-test-faults-XXXXXX") {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
  }
  ~FaultsTest() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
};

TEST_F(FaultsTest, EveryCallHasOneOutcomeWhateverBreaksWhen) {
  using enum Fate;
  constexpr int kRollouts = 3, kAgents = 8;
  // 1,000 requests; 20,000 in the slow runs.
  // NOLINTBEGIN(concurrency-mt-unsafe): nothing in this process changes the environment.
  const int calls_each = std::getenv("SLUICE_SLOW") != nullptr ? 840 : 42;
  const char* const asked_seed = std::getenv("SLUICE_SEED");
  // NOLINTEND(concurrency-mt-unsafe)
  const auto seed =
      static_cast<unsigned>(parse_decimal(asked_seed == nullptr ? "7" : asked_seed).value_or(7));
  SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed));
  // Waiting for time is not to decide what becomes of a call: who comes back is waited for as long
  // as it takes. Where nobody does, calls end by themselves.
  const RolloutId impatient{"r2"};
  trace::JsonlRecorder disk(directory_, Logger());
  Books books(disk);
  Registration registration;
  registration.recorder = &books;
  registration.session_headers.session = "x-session-id";
  registration.resend.window = kForever;
  std::atomic<int> in_wait = 0;
  std::vector<std::unique_ptr<FaultyAgent>> agents;
  for (int r = 0; r < kRollouts; ++r) {
    const RolloutId id{"r" + std::to_string(r)};
    registration.resend.grace = id == impatient ? Duration(5ms) : Duration(kForever);
    std::vector<Fate> fates{kServed, kGone, kTwice, kLateTwin};
    if (id != impatient) {
      fates.insert(fates.end(), {kCutWhileParked, kCutAfterAnswer, kFinWhileParked, kCutInKeepAlive,
                                 kCutInAnswer});
    }
    net::MemoryListener* listener = open(id, registration);
    for (int a = 0; a < kAgents; ++a) {
      agents.push_back(std::make_unique<FaultyAgent>(listener, static_cast<int>(agents.size()),
                                                     calls_each, fates, seed, &in_wait));
    }
  }
  FaultyTrainer trainer(gate_.for_trainer, kRollouts, seed, &in_wait);
  std::thread thread([&] { trainer.run(); });
  for (auto& agent : agents) shard_.spawn(agent->run());
  for (auto& agent : agents) {
    while (!agent->done) std::this_thread::sleep_for(1ms);
  }
  Counters sum;
  for (int r = 0; r < kRollouts; ++r) {
    const RolloutId id{"r" + std::to_string(r)};
    // The answers to those that went away for good; the rollout's end is the end of their calls.
    while (!books.all_answered(id) && counters(id).open > 0) std::this_thread::sleep_for(1ms);
    const Counters counted = counters(id);
    sum.calls += counted.calls;
    sum.resends += counted.resends;
    sum.refused += counted.refused;
    close(id);
  }
  thread.join();

  auto recorded = books.by_body();
  EXPECT_EQ(sum.calls, recorded.size());
  EXPECT_EQ(sum.refused, 0u);
  const llm::Codec& codec = *llm::find_codec(llm::Dialect::kChat);
  json::Peeker peeker;
  std::array<int, kFates> fates{};
  uint64_t delivered = 0, undelivered = 0, lost = 0, answers = 0, came_again = 0;
  int cut_in_keep_alive = 0;
  for (const auto& agent : agents) {
    ASSERT_EQ(agent->asked.size(), static_cast<size_t>(calls_each));
    cut_in_keep_alive += agent->cut_in_keep_alive;
    for (size_t i = 0; i < agent->asked.size(); ++i) {
      const FaultyAgent::Asked& asked = agent->asked[i];
      const bool gone = asked.fate == kGone;
      ++fates[static_cast<size_t>(asked.fate)];
      came_again += static_cast<uint64_t>(asked.resends);
      // A request is one call, however often it was sent; one that was cut before the gate had read
      // it is none.
      const size_t arrivals = recorded.count(asked.body);
      if (gone && arrivals == 0) {
        ++lost;
        continue;
      }
      ASSERT_EQ(arrivals, 1u) << asked.body;
      const Books::Entry entry = recorded.find(asked.body)->second;
      EXPECT_EQ(entry.ends, 1) << asked.body;
      EXPECT_EQ(entry.outcome, gone ? Outcome::kUndelivered : Outcome::kDelivered) << asked.body;
      EXPECT_LE(entry.answers, 1) << asked.body;
      ++(gone ? undelivered : delivered);
      answers += static_cast<uint64_t>(entry.answers);
      // What the agent got is what was said to it, and what it says of that later is what is
      // recorded.
      const FaultyAgent::Asked* next = i + 1 < agent->asked.size() ? &agent->asked[i + 1] : nullptr;
      const bool echoed =
          next != nullptr && next->goes_on && recorded.find(next->body) != recorded.end();
      EXPECT_EQ(entry.confirmations, echoed ? 1 : 0) << asked.body;
      if (gone) continue;
      EXPECT_EQ(entry.answers, 1) << asked.body;
      EXPECT_EQ(asked.got, "answer to " + asked.question);
      EXPECT_EQ(entry.answer.choices.at(0).message.text, asked.got);
      if (!echoed) continue;
      const auto before = codec.peek(peeker, asked.body, {});
      const auto after = codec.peek(peeker, next->body, {});
      ASSERT_TRUE(before && after);
      EXPECT_TRUE(llm::extends(codec, before->conversation, after->conversation)) << next->body;
      EXPECT_EQ(llm::echoed_choice(codec, llm::mark_of(*before), entry.answer, after->conversation),
                0u)
          << next->body;
    }
  }
  const uint64_t requests = agents.size() * static_cast<size_t>(calls_each);
  EXPECT_EQ(delivered + undelivered + lost, requests);
  EXPECT_EQ(sum.calls, delivered + undelivered) << "something was recorded that nobody sent";
  EXPECT_EQ(sum.resends, came_again);
  for (const int count : fates) EXPECT_GT(count, 0);
  EXPECT_GT(cut_in_keep_alive, 0);
  // The trainer was told the same.
  EXPECT_GT(trainer.deaths, 0);
  EXPECT_GT(trainer.versions, 0);
  EXPECT_EQ(trainer.replies, answers + trainer.not_taken);
  EXPECT_GE(trainer.taken.size(), answers);
  EXPECT_LE(trainer.taken.size(), sum.calls);
  EXPECT_EQ(trainer.outcomes[static_cast<size_t>(Outcome::kDelivered)], delivered);
  EXPECT_EQ(trainer.outcomes[static_cast<size_t>(Outcome::kUndelivered)], answers - delivered);
  // So is what is on disk,
  size_t on_disk = 0;
  for (int r = 0; r < kRollouts; ++r) {
    const auto trace = trace::load(disk.location({"r" + std::to_string(r)}));
    ASSERT_TRUE(trace) << trace.error().message;
    expect_trace_is(*trace, recorded, &on_disk);
  }
  EXPECT_EQ(on_disk, sum.calls);
  // and so are the gate's own books.
  const Totals totals = gate_.for_trainer.totals();
  EXPECT_EQ(totals.calls, sum.calls);
  EXPECT_EQ(totals.open_calls, 0u);
  EXPECT_EQ(totals.outcomes[static_cast<size_t>(Outcome::kDelivered)], delivered);
  EXPECT_EQ(totals.outcomes[static_cast<size_t>(Outcome::kUndelivered)], undelivered);
}

}  // namespace
}  // namespace sluice::gate
