// Clients that mean harm, at each of the gate's three servers: a rollout's own endpoint, the one
// that rollouts share, and the trainer API. Each client gets a clear error or a closed connection,
// none reaches a policy or a trainer, and well-behaved calls are answered as ever. (Slow ones,
// which take time, are in net/http_server_test.cc.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/gate/trainer_http/service.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr size_t kMiB = 1024 * 1024;
constexpr std::string_view kTrainerKey = "trainer-key-0123456789";
constexpr std::string_view kOperatorKey = "operator-key-0123456789";

enum class Door : uint8_t { kRollout, kShared, kTrainer };
constexpr Door kDoors[] = {Door::kRollout, Door::kShared, Door::kTrainer};

std::string name_of(Door door) {
  constexpr std::string_view names[] = {"Rollout", "Shared", "Trainer"};
  return std::string(names[static_cast<size_t>(door)]);
}

std::string bearer(std::string_view key) {
  return "Authorization: Bearer " + std::string(key) + "\r\n";
}

// What an attacker of a server knows: all that its agent or trainer does, and more.
struct Target {
  std::string path;        // that takes a body
  std::string key;         // the header with a good key, if one is wanted
  size_t body_limit = 0;   // bytes
  std::string own, other;  // rollouts
  // Keys that are good no more, or elsewhere.
  std::string replayed, expired, foreign, others;

  std::string post(std::string_view headers, std::string_view body) const {
    return post_to(path, headers, body);
  }
  std::string post_to(std::string_view where, std::string_view headers,
                      std::string_view body) const {
    return with_key(key, where, std::string(headers), body);
  }
  static std::string with_key(std::string_view key, std::string_view where,
                              const std::string& headers, std::string_view body) {
    return "POST " + std::string(where) + " HTTP/1.1\r\nHost: gate\r\n" + std::string(key) +
           headers + "\r\n" + std::string(body);
  }
  std::string sized(std::string_view body) const { return sized_to(path, body); }
  std::string sized_to(std::string_view where, std::string_view body) const {
    return post_to(where, length(body), body);
  }
  // A request that would be good under another key.
  std::string under(std::string_view header) const {
    return with_key(header, path, length(kGood), kGood);
  }
  static std::string length(std::string_view body) {
    return "Content-Length: " + std::to_string(body.size()) + "\r\n";
  }
  static constexpr std::string_view kGood =
      R"({"model":"m","messages":[{"role":"user","content":"x"}]})";
};

std::string repeat(std::string_view text, size_t times) {
  std::string out;
  out.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

// The answer's status at each door.
struct Statuses {
  int rollout, shared, trainer;  // 0: it is no attack there
  int at(Door door) const {
    return door == Door::kRollout ? rollout : door == Door::kShared ? shared : trainer;
  }
};
constexpr Statuses everywhere(int status) {
  return {status, status, status};
}
constexpr Statuses at_agents(int status) {
  return {status, status, 0};
}
constexpr Statuses with_keys(int status) {
  return {0, status, status};
}

struct Attack {
  const char* name;
  std::function<std::string(const Target&)> bytes;
  Statuses statuses;
};

const Attack kAttacks[] = {
    // ---- heads
    {"header_too_large",
     [](const Target& t) { return t.post("X: " + std::string(70'000, 'x') + "\r\n", ""); },
     everywhere(431)},
    {"too_many_headers", [](const Target& t) { return t.post(repeat("X: y\r\n", 200), ""); },
     everywhere(431)},
    {"target_too_long",
     [](const Target&) { return "GET /" + std::string(70'000, 'a') + " HTTP/1.1\r\n\r\n"; },
     everywhere(431)},
    {"header_without_colon", [](const Target& t) { return t.post("no colon here\r\n", ""); },
     everywhere(400)},
    {"folded_header", [](const Target& t) { return t.post("X: a\r\n b\r\n", ""); },
     everywhere(400)},
    {"space_before_colon",
     [](const Target& t) { return t.post("Content-Length : 5\r\n", "hello"); }, everywhere(400)},
    {"nul_in_header", [](const Target& t) { return t.post(std::string("X: a\0b\r\n", 8), ""); },
     everywhere(400)},
    {"not_http",
     [](const Target&) {
       constexpr char kHello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
       return std::string(kHello, sizeof kHello - 1);
     },
     everywhere(400)},
    {"old_version", [](const Target&) { return std::string("GET / HTTP/0.9\r\n\r\n"); },
     everywhere(505)},
    {"connect_through",
     [](const Target&) { return std::string("CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n"); },
     everywhere(400)},

    // ---- where a body ends
    {"smuggling_both_lengths",
     [](const Target& t) {
       return t.post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                     "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n");
     },
     everywhere(400)},
    {"smuggling_two_lengths",
     [](const Target& t) { return t.post("Content-Length: 4\r\nContent-Length: 40\r\n", "abcd"); },
     everywhere(400)},
    {"smuggling_odd_encoding",
     [](const Target& t) { return t.post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"); },
     everywhere(501)},
    {"length_not_a_number",
     [](const Target& t) { return t.post("Content-Length: 5x\r\n", "hello"); }, everywhere(400)},
    {"length_negative", [](const Target& t) { return t.post("Content-Length: -1\r\n", "hello"); },
     everywhere(400)},
    {"length_overflows",
     [](const Target& t) { return t.post("Content-Length: 99999999999999999999999\r\n", "x"); },
     everywhere(400)},
    {"bad_chunk_size",
     [](const Target& t) { return t.post("Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n"); },
     everywhere(400)},
    {"chunk_without_end",
     [](const Target& t) { return t.post("Transfer-Encoding: chunked\r\n", "5\r\nhelloXX0\r\n"); },
     everywhere(400)},
    {"body_one_byte_too_large",
     [](const Target& t) { return t.sized(std::string(t.body_limit + 1, ' ')); }, everywhere(413)},
    {"body_said_to_be_huge",
     [](const Target& t) { return t.post("Content-Length: 999999999999\r\n", "{"); },
     everywhere(413)},

    // ---- bodies
    {"deep_json",
     [](const Target& t) {
       return t.sized(R"({"model":"m","messages":[{"role":"user","content":)" +
                      repeat("[", 100'000) + repeat("]", 100'000) + "}]}");
     },
     everywhere(400)},
    {"deep_canonical_json", [](const Target& t) { return t.sized(repeat("{\"messages\":", 5000)); },
     everywhere(400)},
    {"not_utf8",
     [](const Target& t) {
       return t.sized("{\"model\":\"\xff\",\"messages\":[{\"role\":\"user\"}]}");
     },
     everywhere(400)},
    {"twice_the_same_field",
     [](const Target& t) { return t.sized(R"({"model":"m","messages":[{}],"messages":[{}]})"); },
     at_agents(400)},
    {"compressed_bomb",
     [](const Target& t) {
       // A good request of 40 MiB, by brotli.
       const Bytes bomb = *from_base64(
           "y///P4CM1GLNGe7UInt4W4tFxzEOWB/2axsm1D2Hh19OrCW5sRzGAV1GVn8YqU7jhvd/F////+CXAIjDIgDd+z/"
           "+"
           "///BLwEQhwUAuvd//P//g18CIA4LAHTv//j//we/BEAcFgDo3v+FDQB+yb4ukTJClABAzwA=");
       return t.post("Content-Encoding: br\r\n" + Target::length(bomb), bomb);
     },
     {413, 413, 400}},
    {"compressed_nonsense",
     [](const Target& t) {
       return t.post("Content-Encoding: gzip\r\nContent-Length: 2\r\n", "xx");
     },
     everywhere(400)},
    {"compressed_as_nobody_knows",
     [](const Target& t) {
       return t.post("Content-Encoding: deflate\r\nContent-Length: 2\r\n", "xx");
     },
     {415, 415, 400}},

    // ---- other people's places
    {"another_rollout",
     [](const Target& t) {
       return t.sized_to("/rollout/" + t.other + "/v1/chat/completions", Target::kGood);
     },
     everywhere(404)},
    {"another_rollout_encoded",
     [](const Target& t) {
       const std::string encoded = t.other.substr(0, 1) + "%31";
       return t.sized_to("/rollout/" + encoded + "/v1/chat/completions", Target::kGood);
     },
     everywhere(404)},
    {"out_of_its_rollout",
     [](const Target& t) {
       return t.sized_to("/rollout/" + t.own + "/../" + t.other + "/v1/chat/completions",
                         Target::kGood);
     },
     everywhere(404)},
    {"broken_escape",
     [](const Target& t) {
       return t.sized_to("/rollout/" + t.own + "/v1/chat/%zz", Target::kGood);
     },
     everywhere(404)},
    {"the_trainers_api", [](const Target& t) { return t.sized_to("/v1/next_batch", "{}"); },
     at_agents(404)},
    {"the_agents_api",
     [](const Target& t) { return t.sized_to("/v1/chat/completions", Target::kGood); },
     {0, 0, 404}},

    // ---- keys
    {"no_key", [](const Target& t) { return t.under(""); }, with_keys(401)},
    {"no_key_and_a_body_that_does_not_come",
     [](const Target& t) {
       return Target::with_key("", t.path, "Content-Length: 10000000\r\n", "");
     },
     with_keys(401)},
    {"a_key_for_health_and_its_body",
     [](const Target&) {
       return Target::with_key("", "/health", "Content-Length: 10000000\r\n", "");
     },
     with_keys(401)},
    {"forged_key",
     [](const Target& t) {
       std::string forged = t.key;
       forged[forged.size() - 3] ^= 1;
       return t.under(forged);
     },
     with_keys(401)},
    {"endless_key", [](const Target& t) { return t.under(bearer(std::string(60'000, 'k'))); },
     with_keys(401)},
    {"replayed_key", [](const Target& t) { return t.under(bearer(t.replayed)); }, with_keys(401)},
    {"expired_key", [](const Target& t) { return t.under(bearer(t.expired)); }, with_keys(401)},
    {"another_gates_key", [](const Target& t) { return t.under(bearer(t.foreign)); },
     with_keys(401)},
    {"the_key_of_another_door", [](const Target& t) { return t.under(bearer(t.others)); },
     with_keys(401)},
    {"the_operators_key",
     [](const Target& t) { return t.under(bearer(kOperatorKey)); },
     {0, 401, 403}},
};

class HostileFixture : public testing::GateFixture {
 protected:
  void open_all() {
    open();
    http::SharedEndpoint::Options shared;
    shared.clock = [this] {
      return now_;
    };
    shared.rollout_bodies_bytes = options_.bodies_bytes;
    shared_.emplace(shard_, gate_->for_operator, shared);
    shared_->serve(listener(&shared_door_));
    trainer_http::ServiceOptions service;
    service.trainer_key = kTrainerKey;
    service.operator_key = kOperatorKey;
    service.agents = &*shared_;
    service.bodies_bytes = options_.bodies_bytes;
    service_ = std::move(*trainer_http::TrainerService::make(shard_, gate_->for_trainer, service));
    service_->serve(listener(&trainer_door_));

    keys_.replayed = register_rollout("s0");
    net::testing::run(shard_, shared_->close({"s0"}));
    keys_.own = register_rollout("s0");
    keys_.other = register_rollout("s1");
    keys_.expired = register_rollout("s2", 1s);
    now_ += 1s;
    const RolloutKeys others;
    keys_.foreign = others.make(RolloutKeys::fresh_holder({"s0"}), now_ + 1h);
  }

  void TearDown() override {
    if (service_) net::testing::run(shard_, service_->stop(Deadline::in(1s)));
    if (shared_) net::testing::run(shard_, shared_->stop(Deadline::in(1s)));
    GateFixture::TearDown();
  }

  Target target(Door door) const {
    Target out;
    out.replayed = keys_.replayed;
    out.expired = keys_.expired;
    out.foreign = keys_.foreign;
    switch (door) {
      case Door::kRollout:
        out.path = "/v1/chat/completions";
        out.own = "r0";
        out.other = "r1";
        break;
      case Door::kShared:
        out.path = "/v1/chat/completions";
        out.key = bearer(keys_.own);
        out.own = "s0";
        out.other = "s1";
        out.others = kTrainerKey;
        break;
      case Door::kTrainer:
        out.path = "/v1/reply";
        out.key = bearer(kTrainerKey);
        out.own = "r0";
        out.other = "r1";
        out.others = keys_.own;
        break;
    }
    out.body_limit = (door == Door::kTrainer ? 64 : 32) * kMiB;
    return out;
  }

  testing::Agent client(Door door) {
    return testing::Agent(shard_, door == Door::kRollout  ? *listener_
                                  : door == Door::kShared ? *shared_door_
                                                          : *trainer_door_);
  }

  // As sockets do, in pieces; what is refused early is not read to its end.
  void send(testing::Agent& from, std::string bytes) {
    shard_.spawn(write(&from.stream(), std::move(bytes)));
  }

  void expect_nothing_happened() {
    EXPECT_EQ(counters().calls, 0u);
    for (const char* id : {"s0", "s1"}) EXPECT_EQ(shared_->counters({id})->calls, 0u) << id;
    EXPECT_FALSE(a_call_waits());
  }

  // A small call at each door.
  void expect_all_is_well() {
    auto agent = client(Door::kRollout);
    agent.post(kPath, body());
    EXPECT_EQ(answer_next("as ever"), llm::Outcome::kDelivered);
    EXPECT_THAT(agent.response().body, HasSubstr("as ever"));

    auto other = client(Door::kShared);
    other.post("/rollout/s0/v1/chat/completions", body(), bearer(keys_.own));
    auto trainer = client(Door::kTrainer);
    trainer.post("/v1/rollouts/s0/next", R"({"wait_s":30})", bearer(kTrainerKey));
    EXPECT_THAT(trainer.response().body, HasSubstr("question 0"));
  }

  struct Keys {
    std::string replayed, own, other, expired, foreign;
  };
  RolloutKeys::Time now_{1'800'000'000s};
  Keys keys_;
  std::optional<http::SharedEndpoint> shared_;
  std::unique_ptr<trainer_http::TrainerService> service_;
  net::MemoryListener* shared_door_ = nullptr;
  net::MemoryListener* trainer_door_ = nullptr;

 private:
  std::unique_ptr<net::Listener> listener(net::MemoryListener** out) {
    auto made = std::make_unique<net::MemoryListener>(shard_);
    *out = made.get();
    return made;
  }
  std::string register_rollout(const std::string& id, Duration lifetime = 1h) {
    Registration registration;
    registration.id = {id};
    return shared_->open(std::move(registration), lifetime)->key;
  }
  static net::awaitable<void> write(net::MemoryStream* stream, std::string bytes) {
    const auto written = co_await stream->write_all(as_byte_span(bytes));
    (void)written;
  }
};

struct Case {
  Door door;
  const Attack* attack;
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << name_of(one.door) << " " << one.attack->name;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Door door : kDoors) {
    for (const Attack& attack : kAttacks) {
      if (attack.statuses.at(door) != 0) out.push_back({door, &attack});
    }
  }
  return out;
}

class HostileTest : public HostileFixture, public ::testing::WithParamInterface<Case> {};

TEST_P(HostileTest, IsToldAndHarmsNobody) {
  open_all();
  const auto [door, attack] = GetParam();
  auto hostile = client(door);
  send(hostile, attack->bytes(target(door)));
  const auto response = hostile.response();
  EXPECT_EQ(response.status, attack->statuses.at(door)) << response.body;
  EXPECT_THAT(response.body, HasSubstr("error"));
  // Nothing that followed in the same bytes was taken for a request of its own.
  testing::settle(shard_);
  EXPECT_EQ(hostile.seen().find("HTTP/1.1 200"), std::string::npos);
  expect_nothing_happened();
  expect_all_is_well();
  hostile.reset();
  testing::settle(shard_);
}

INSTANTIATE_TEST_SUITE_P(Attacks, HostileTest, ::testing::ValuesIn(cases()), [](const auto& info) {
  return name_of(info.param.door) + "_" + info.param.attack->name;
});

// ---- memory

class HalfSentTest : public HostileFixture, public ::testing::WithParamInterface<Door> {};

TEST_P(HalfSentTest, BodiesThatNeverEndTakeNoMoreThanTheirLimit) {
  constexpr size_t kConnections = 40;
  options_.bodies_bytes = 8 * kMiB;
  open_all();
  const Door door = GetParam();
  const Target at = target(door);
  const std::string all_but_the_end =
      at.post("Content-Length: " + std::to_string(kMiB) + "\r\n", std::string(kMiB - 1, ' '));
  std::vector<testing::Agent> hostile;
  for (size_t i = 0; i < kConnections; ++i) {
    hostile.push_back(client(door));
    send(hostile.back(), all_but_the_end);
  }
  testing::settle(shard_);
  // Whoever was not refused holds its body, all of it but a byte.
  size_t holding = 0;
  for (testing::Agent& one : hostile) {
    if (one.seen().empty()) {
      ++holding;
      continue;
    }
    const auto response = one.response();
    EXPECT_EQ(response.status, 503);
    EXPECT_THAT(response.body, HasSubstr("error"));
  }
  EXPECT_GT(holding, 0u);
  EXPECT_LE(holding * kMiB, options_.bodies_bytes);
  expect_nothing_happened();
  // Small calls need no room, and other rollouts have their own.
  expect_all_is_well();
  if (door == Door::kShared) {
    auto other = client(Door::kShared);
    send(other, Target::with_key(bearer(keys_.other), at.path,
                                 "Content-Length: " + std::to_string(kMiB) + "\r\n",
                                 std::string(kMiB, ' ')));
    EXPECT_EQ(other.response().status, 400);  // read, and no JSON
  }
  // What they held is there again when they are gone.
  for (testing::Agent& one : hostile) one.reset();
  testing::settle(shard_);
  auto large = client(door);
  send(large, at.sized(std::string(8 * kMiB, ' ')));
  EXPECT_EQ(large.response().status, 400);
}

INSTANTIATE_TEST_SUITE_P(Doors, HalfSentTest, ::testing::ValuesIn(kDoors),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace sluice::gate
