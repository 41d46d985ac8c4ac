// What the gate's benchmark loads, each in a process of its own:
//
//   gate_bench_server bare                       a server on the same library: reads the body,
//                                                writes an answer of the same size
//   gate_bench_server gate inline|trainer [DIR]  the gate; answered in place, or by a trainer on a
//                                                thread of its own; recording to DIR if it is given
//   gate_bench_server parked CALLS BODY_BYTES    holds that many calls over guests' multiplexed
//                                                links and prints what each takes in memory
//
// Prints the port. Then prints, for each line that it reads, what it has used so far; for "fresh"
// it first deletes the rollout's trace and opens the rollout anew, which changes the port.
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>
#include <utility>

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
    reply.answer(answer_);
  }

 private:
  const llm::Answer answer_ = fixed_answer();
};

gate::Registration registration(net::Shard& shard, std::string id) {
  gate::Registration out;
  out.id = {std::move(id)};
  out.shard = &shard;
  out.budget = {.calls = 0, .open_calls = 0, .calls_per_second = 0};
  return out;
}

void announce(const std::string& address) {
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
void tell_usage(const std::function<void()>& make_fresh) {
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "fresh") {
      make_fresh();
      continue;
    }
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
  const std::string address = (*listener)->address();
  announce(address);
  server.serve(std::move(*listener));
  std::thread(tell_usage, [address] { announce(address); }).detach();
  shard.run_until([] { return false; });
  return 0;
}

void train(gate::Trainer trainer) {
  const llm::Answer answer = fixed_answer();
  for (;;) {
    const std::vector<gate::Item> items = trainer.next_batch(256, 1h);
    std::vector<gate::Trainer::Given> replies;
    replies.reserve(items.size());
    for (const gate::Item& item : items) {
      if (const llm::Call* call = item.call()) replies.push_back({call->id, answer});
    }
    trainer.reply(std::move(replies));
  }
}

// One rollout, and its trace if there is one.
class Served {
 public:
  Served(std::string policy, const char* directory) : policy_(std::move(policy)) {
    if (directory != nullptr) recorder_.emplace(directory, Logger());
  }

  void run() {
    if (!open()) std::_Exit(1);
    if (policy_ == "trainer") std::thread(train, gate_.for_trainer).detach();
    std::thread(tell_usage, [this] { shard_.post([this] { shard_.spawn(renew()); }); }).detach();
    shard_.run_until([] { return false; });
  }

 private:
  bool open() {
    gate::Registration rollout = registration(shard_, "r0");
    if (recorder_) rollout.recorder = &*recorder_;
    if (policy_ == "inline") rollout.policy = std::make_shared<InPlace>();
    auto listener = net::listen_tcp(shard_, "127.0.0.1", 0);
    if (!listener || !gate_.for_operator.open(std::move(rollout))) return false;
    const std::string address = (*listener)->address();
    if (!gate_.for_operator.serve({"r0"}, std::move(*listener))) return false;
    gate_.for_operator.admit({"r0"});
    announce(address);
    return true;
  }

  net::awaitable<void> renew() {
    const RolloutId id{"r0"};
    co_await gate_.for_operator.close(id);
    if (recorder_) {
      recorder_->closed(id, {});
      if (!recorder_->flush(id)) std::_Exit(1);
      const std::string lines = recorder_->location(id);
      std::filesystem::remove(lines);
      std::filesystem::remove(lines.substr(0, lines.rfind('.')) + ".bodies");
    }
    if (!open()) std::_Exit(1);
  }

  const std::string policy_;
  net::Shard shard_;
  std::optional<trace::JsonlRecorder> recorder_;
  gate::Handles gate_ = gate::make_gate({});
};

// --- Parked calls over a guest's link ------------------------------------------------------------

// Of one rollout, and so of one guest.
constexpr size_t kPerRollout = 1000;

// The guest's end of a link, in another process: what it holds is not counted.
class FakeGuest {
 public:
  explicit FakeGuest(int fd) : fd_(fd) {}

  // Shakes hands and waits to be told to listen.
  void greet() {
    say(guest::wire::FrameType::kHello, 0, guest::wire::GuestHello{}.encode());
    while (listener_ == 0) read();
  }
  void call(size_t number, const std::string& filler) {
    using guest::wire::FrameType;
    const uint32_t stream = 2 * ++calls_;
    const guest::wire::Accepted accepted{listener_, static_cast<uint16_t>(calls_)};
    say(FrameType::kOpen, stream,
        guest::wire::split({guest::wire::Verb::kAccepted, accepted.encode()})->front());
    const std::string body = fmt::format(
        R"({{"model":"m","stream":true,"messages":[{{"role":"user","content":"{}{}"}}]}})", number,
        filler);
    const std::string request =
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
                    body.size(), body);
    for (size_t at = 0; at < request.size(); at += guest::wire::kMaxPayload) {
      say(FrameType::kData, stream, ByteView(request).substr(at, guest::wire::kMaxPayload));
    }
  }
  // Everything, while the host's side may have much to say.
  void flush() {
    while (!out_.empty()) {
      pollfd both{fd_, POLLIN | POLLOUT, 0};
      ::poll(&both, 1, -1);
      if ((both.revents & POLLIN) != 0) take();
      const ssize_t n = ::send(fd_, out_.data(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) std::_Exit(0);
      if (n > 0) out_.erase(0, static_cast<size_t>(n));
    }
  }
  int fd() const { return fd_; }
  void read() {
    flush();
    pollfd in{fd_, POLLIN, 0};
    ::poll(&in, 1, -1);
    take();
    flush();
  }

 private:
  void say(guest::wire::FrameType type, uint32_t stream, ByteView payload) {
    guest::wire::append_frame(out_, type, stream, guest::wire::on_link(type) ? 0 : ++seq_, payload);
    if (out_.size() > 60'000) flush();
  }

  void take() {
    using guest::wire::FrameType;
    const auto space = decoder_.space();
    const ssize_t n = ::read(fd_, space.data(), space.size());
    if (n <= 0) std::_Exit(0);
    decoder_.commit(static_cast<size_t>(n));
    for (;;) {
      const auto frame = decoder_.next();
      if (!frame || !*frame) return;
      if ((*frame)->type == FrameType::kKeepAlive) {
        guest::wire::append_frame(out_, FrameType::kKeepAlive, 0, 0, {});
      } else if ((*frame)->type == FrameType::kOpen) {
        guest::wire::Listening reply;
        reply.port = 80;
        listener_ = (*frame)->stream;
        guest::wire::append_frame(out_, FrameType::kReply, listener_, ++seq_, reply.encode());
      }
    }
  }

  const int fd_;
  uint64_t seq_ = 0;
  uint32_t calls_ = 0;
  uint32_t listener_ = 0;
  Bytes out_;
  guest::wire::Decoder decoder_;
};

[[noreturn]] void be_guests(const std::vector<int>& fds, size_t calls, size_t body_bytes) {
  const std::string filler(body_bytes, 'a');
  std::vector<std::unique_ptr<FakeGuest>> guests;
  for (const int fd : fds) {
    guests.push_back(std::make_unique<FakeGuest>(fd));
    guests.back()->greet();
    for (size_t i = 0; i < kPerRollout && calls > 0; ++i) {
      guests.back()->call(calls--, filler);
      // What waits to be accepted is bounded, as a socket's backlog is.
      if (i % 8 != 0) continue;
      guests.back()->flush();
      std::this_thread::sleep_for(2ms);
    }
    guests.back()->flush();
  }
  std::vector<pollfd> all;
  for (const int fd : fds) all.push_back({fd, POLLIN, 0});
  for (;;) {
    ::poll(all.data(), all.size(), -1);
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i].revents != 0) guests[i]->read();
    }
  }
}

struct Parking {
  net::Shard* shard;
  gate::Operator* gate;
  std::vector<std::unique_ptr<guest::Client>> clients;
};

net::awaitable<void> serve_all(Parking* parking, std::vector<std::unique_ptr<guest::Link>> links) {
  guest::ClientOptions options;
  options.silence = 1h;
  for (size_t i = 0; i < links.size(); ++i) {
    auto client = co_await guest::Client::connect(parking->shard, std::move(links[i]), options);
    if (!client) std::_Exit(1);
    parking->clients.push_back(std::move(*client));
    auto listener = co_await parking->clients.back()->listen(0, guest::Carry::kConnections);
    const RolloutId id{fmt::format("r{}", i)};
    if (!listener || !parking->gate->serve(id, std::move(*listener))) std::_Exit(1);
    parking->gate->admit(id);
  }
}

int park(size_t calls, size_t body_bytes) {
  // Some more than have to be parked: a guest's connections may be refused, as by a full backlog.
  const size_t rollouts = (calls + kPerRollout - 1) / kPerRollout + 2;
  std::vector<int> ours, theirs;
  for (size_t i = 0; i < rollouts; ++i) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
    ours.push_back(ends[0]);
    theirs.push_back(ends[1]);
  }
  if (::fork() == 0) {
    for (const int fd : ours) ::close(fd);
    be_guests(theirs, rollouts * kPerRollout, body_bytes);
  }
  for (const int fd : theirs) ::close(fd);
  net::Shard shard;
  gate::GateOptions options;
  options.keep_alive = 1h;
  gate::Handles gate = gate::make_gate(options);
  std::vector<std::unique_ptr<guest::Link>> links;
  for (size_t i = 0; i < rollouts; ++i) {
    auto link = guest::make_socket_link(shard, Fd(ours[i]));
    if (!link || !gate.for_operator.open(registration(shard, fmt::format("r{}", i)))) return 1;
    links.push_back(std::move(*link));
  }
  const uint64_t before = rss_kib();
  Parking parking{&shard, &gate.for_operator, {}};
  shard.spawn(serve_all(&parking, std::move(links)));
  const auto deadline = Clock::now() + 120s;
  net::Wheel::Timer tick(shard.wheel());
  std::function<void()> again = [&] {
    tick.arm(Deadline::in(100ms), again);
  };
  again();
  shard.run_until(
      [&] { return gate.for_trainer.totals().open_calls >= calls || Clock::now() > deadline; });
  // Until what parking itself does is over.
  const auto settled = Clock::now() + 1s;
  shard.run_until([&] { return Clock::now() > settled; });
  const gate::Totals totals = gate.for_trainer.totals();
  const uint64_t grown = (rss_kib() - before) * 1024;
  fmt::print(
      "{{\"parked\":{},\"links\":{},\"grown_bytes\":{},\"body_bytes\":{},\"cpu_s\":{:.3f}}}\n",
      totals.open_calls, rollouts, grown, totals.request_bytes, cpu_seconds());
  std::fflush(stdout);
  std::_Exit(0);
}

int run(int argc, char** argv) {
  // As the command does.
  mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
  mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "bare") return serve_bare();
  if (what == "gate" && argc > 2) Served(argv[2], argc > 3 ? argv[3] : nullptr).run();
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
