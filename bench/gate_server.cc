// What the gate's benchmark loads, each in a process of its own:
//
//   gate_bench_server bare                       a server on the same library: reads the body,
//                                                writes an answer of the same size
//   gate_bench_server gate inline|trainer [DIR]  the gate; answered in place, or by a trainer on a
//                                                thread of its own; recording to DIR if it is given
//   gate_bench_server parked CALLS BODY_BYTES    holds that many calls over one guest's multiplexed
//                                                link and prints what each takes in memory
//
// Prints the port. Then prints, for each line that it reads, what it has used so far.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <thread>

#include "sluice/gate/gate.h"
#include "sluice/guest/client/client.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/dialect.h"
#include "sluice/net/http_server.h"
#include "sluice/net/socket.h"
#include "sluice/trace/jsonl.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

// As the reference gate's.
llm::Answer fixed_answer() {
  std::string text;
  for (int i = 0; i < 64; ++i) text += "ok ";
  llm::Answer answer = llm::text_answer(std::move(text), llm::Origin::kCanned);
  answer.usage = llm::Usage{1, 64};
  return answer;
}

class InPlace final : public gate::Policy {
 public:
  void submit(std::shared_ptr<const llm::Call>, gate::Reply reply) override {
    reply.answer(fixed_answer());
  }
};

gate::Registration registration(net::Shard& shard, std::string id) {
  gate::Registration out;
  out.id = {std::move(id)};
  out.shard = &shard;
  out.budget = {.calls = 0, .open_calls = 0, .calls_per_second = 0};
  return out;
}

void announce(const net::Listener& listener) {
  const std::string address = listener.address();
  fmt::print("{}\n", address.substr(address.rfind(':') + 1));
  std::fflush(stdout);
}

uint64_t rss_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Until stdin ends.
void tell_usage() {
  for (std::string line; std::getline(std::cin, line);) {
    fmt::print("{{\"cpu_s\":{:.6f},\"rss_kib\":{}}}\n", cpu_seconds(), rss_kib());
    std::fflush(stdout);
  }
  std::_Exit(0);
}

net::awaitable<void> answer_bare(std::shared_ptr<const std::string> answer,
                                 net::HttpRequest request, net::ResponseWriter* writer) {
  if (request.body.empty()) co_return;
  net::HttpResponse response = net::json_response(200, *answer);
  const auto sent = co_await writer->send(std::move(response));
  if (!sent) writer->abort();
}

int serve_bare() {
  net::Shard shard;
  llm::Call call;
  call.id = CallId::fresh();
  call.model = "policy";
  const auto answer = std::make_shared<const std::string>(
      llm::find_codec(llm::Dialect::kChat)->plain(llm::envelope(call), fixed_answer()));
  net::HttpServer server(shard, [answer](net::HttpRequest request, net::ResponseWriter* writer) {
    return answer_bare(answer, std::move(request), writer);
  });
  auto listener = net::listen_tcp(shard, "127.0.0.1", 0);
  if (!listener) return 1;
  announce(**listener);
  server.serve(std::move(*listener));
  std::thread(tell_usage).detach();
  shard.run_until([] { return false; });
  return 0;
}

void train(gate::Trainer trainer) {
  for (;;) {
    for (const gate::Item& item : trainer.next_batch(256, 1h)) {
      if (const llm::Call* call = item.call()) trainer.reply(call->id, fixed_answer(), {});
    }
  }
}

int serve_gate(const std::string& policy, const char* directory) {
  net::Shard shard;
  std::optional<trace::JsonlRecorder> recorder;
  if (directory != nullptr) recorder.emplace(directory, Logger());
  gate::Handles gate = gate::make_gate({});
  gate::Registration rollout = registration(shard, "r0");
  if (recorder) rollout.recorder = &*recorder;
  if (policy == "inline") rollout.policy = std::make_shared<InPlace>();
  auto listener = net::listen_tcp(shard, "127.0.0.1", 0);
  if (!listener || !gate.for_operator.open(std::move(rollout))) return 1;
  announce(**listener);
  if (!gate.for_operator.serve({"r0"}, std::move(*listener))) return 1;
  gate.for_operator.admit({"r0"});
  if (policy == "trainer") std::thread(train, gate.for_trainer).detach();
  std::thread(tell_usage).detach();
  shard.run_until([] { return false; });
  return 0;
}

// --- Parked calls over a guest's link ------------------------------------------------------------

constexpr size_t kPerRollout = 1000;

// The guest's end of the link, in a process of its own: what it holds is not counted.
class FakeGuest {
 public:
  FakeGuest(int fd, size_t calls, size_t body_bytes)
      : fd_(fd), calls_(calls), body_(body_bytes, 'a') {}

  [[noreturn]] void run() {
    say(guest::wire::FrameType::kHello, 0, guest::wire::GuestHello{}.encode());
    while (listeners_.size() < (calls_ + kPerRollout - 1) / kPerRollout) read();
    for (size_t i = 0; i < calls_; ++i) call(i);
    flush();
    for (;;) read();
  }

 private:
  void say(guest::wire::FrameType type, uint32_t stream, ByteView payload) {
    guest::wire::append_frame(out_, type, stream, guest::wire::on_link(type) ? 0 : ++seq_, payload);
    if (out_.size() > 60'000) flush();
  }
  void flush() {
    for (size_t at = 0; at < out_.size();) {
      const ssize_t n = ::write(fd_, out_.data() + at, out_.size() - at);
      if (n <= 0) std::_Exit(0);
      at += static_cast<size_t>(n);
    }
    out_.clear();
  }

  void read() {
    flush();
    const auto space = decoder_.space();
    const ssize_t n = ::read(fd_, space.data(), space.size());
    if (n <= 0) std::_Exit(0);
    decoder_.commit(static_cast<size_t>(n));
    for (;;) {
      const auto frame = decoder_.next();
      if (!frame || !*frame) return;
      if ((*frame)->type == guest::wire::FrameType::kKeepAlive) {
        say(guest::wire::FrameType::kKeepAlive, 0, {});
      } else if ((*frame)->type == guest::wire::FrameType::kOpen) {
        guest::wire::Listening reply;
        reply.port = 80;
        say(guest::wire::FrameType::kReply, (*frame)->stream, reply.encode());
        listeners_.push_back((*frame)->stream);
      }
    }
  }

  void call(size_t number) {
    using guest::wire::FrameType;
    const uint32_t stream = 2 * static_cast<uint32_t>(number) + 2;
    const auto port = static_cast<uint16_t>(number % 60'000 + 1);
    const guest::wire::Accepted accepted{listeners_[number / kPerRollout], port};
    say(FrameType::kOpen, stream,
        guest::wire::split({guest::wire::Verb::kAccepted, accepted.encode()})->front());
    const std::string body = fmt::format(
        R"({{"model":"m","stream":true,"messages":[{{"role":"user","content":"{}{}"}}]}})", number,
        body_);
    const std::string request =
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
                    body.size(), body);
    for (size_t at = 0; at < request.size(); at += guest::wire::kMaxPayload) {
      say(FrameType::kData, stream, ByteView(request).substr(at, guest::wire::kMaxPayload));
    }
  }

  const int fd_;
  const size_t calls_;
  const std::string body_;
  uint64_t seq_ = 0;
  Bytes out_;
  guest::wire::Decoder decoder_;
  std::vector<uint32_t> listeners_;
};

struct Parking {
  net::Shard* shard;
  gate::Operator* gate;
  std::unique_ptr<guest::Client> client;
  size_t rollouts;
  bool ready = false;
};

net::awaitable<void> listen_all(Parking* parking, std::unique_ptr<guest::Link> link) {
  guest::ClientOptions options;
  options.max_held = 1ull << 40;
  auto client = co_await guest::Client::connect(parking->shard, std::move(link), options);
  if (!client) {
    fmt::print(stderr, "{}\n", client.error().message);
    std::_Exit(1);
  }
  parking->client = std::move(*client);
  for (size_t i = 0; i < parking->rollouts; ++i) {
    auto listener = co_await parking->client->listen(0, guest::Carry::kConnections);
    const RolloutId id{fmt::format("r{}", i)};
    if (!listener || !parking->gate->serve(id, std::move(*listener))) std::_Exit(1);
    parking->gate->admit(id);
  }
  parking->ready = true;
}

int park(size_t calls, size_t body_bytes) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
  if (::fork() == 0) {
    ::close(ends[0]);
    FakeGuest(ends[1], calls, body_bytes).run();
  }
  ::close(ends[1]);
  net::Shard shard;
  gate::GateOptions options;
  options.keep_alive = 1h;
  gate::Handles gate = gate::make_gate(options);
  Parking parking{&shard, &gate.for_operator, nullptr, (calls + kPerRollout - 1) / kPerRollout};
  for (size_t i = 0; i < parking.rollouts; ++i) {
    if (!gate.for_operator.open(registration(shard, fmt::format("r{}", i)))) return 1;
  }
  const uint64_t before = rss_kib();
  auto link = guest::make_socket_link(shard, Fd(ends[0]));
  if (!link) return 1;
  shard.spawn(listen_all(&parking, std::move(*link)));
  const auto deadline = Clock::now() + 120s;
  shard.run_until(
      [&] { return gate.for_trainer.totals().open_calls >= calls || Clock::now() > deadline; });
  // What parking itself does is over when the loop has nothing to do.
  const auto settled = Clock::now() + 1s;
  shard.run_until([&] { return Clock::now() > settled; });
  const gate::Totals totals = gate.for_trainer.totals();
  const uint64_t grown = (rss_kib() - before) * 1024;
  fmt::print("{{\"parked\":{},\"grown_bytes\":{},\"body_bytes\":{},\"cpu_s\":{:.3f}}}\n",
             totals.open_calls, grown, totals.request_bytes, cpu_seconds());
  std::fflush(stdout);
  std::_Exit(0);
}

int run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "bare") return serve_bare();
  if (what == "gate" && argc > 2) return serve_gate(argv[2], argc > 3 ? argv[3] : nullptr);
  if (what == "parked" && argc > 3) {
    return park(std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
  }
  fmt::print(stderr,
             "usage: gate_bench_server bare | gate POLICY [DIR] | parked CALLS BODY_BYTES\n");
  return 2;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
