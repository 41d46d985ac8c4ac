// What the gate's benchmark loads, each in a process of its own:
//
//   gate_bench_server bare                       a server on the same library: reads the body,
//                                                writes an answer of the same size
//   gate_bench_server gate inline|trainer [DIR]  the gate; answered in place, or by a trainer on a
//                                                thread of its own; recording to DIR if it is given
//   gate_bench_server parked CALLS BODY_BYTES    holds that many calls over guests' multiplexed
//                                                links and prints what each takes in memory
//   gate_bench_server fairness ROLLOUTS FLOOD CALLS
//                                                so many rollouts on one shard, of which one keeps
//                                                FLOOD calls open, until each of the others has had
//                                                CALLS answers; prints how long those waited
//   gate_bench_server cancel ROUNDS              cancels parked calls from another shard and prints
//                                                how long it took until their agents were told
//
// The first two print the port. Then they print, for each line that they read, what they have used
// so far; for "fresh" the rollout's trace is first deleted and the rollout opened anew, which
// changes the port.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <thread>
#include <utility>

#include "sluice/base/heap.h"
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
      const auto flushed = co_await trace::flushed(&*recorder_, &shard_, id);
      if (!flushed) std::_Exit(1);
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
    const guest::wire::GuestHello hello;
    say(guest::wire::FrameType::kHello, 0, guest::wire::encode(hello));
    while (listener_ == 0) read();
  }
  void call(size_t number, const std::string& filler) {
    using guest::wire::FrameType;
    const uint32_t stream = 2 * ++calls_;
    const guest::wire::Accepted accepted{listener_, static_cast<uint16_t>(calls_)};
    const auto pieces = guest::wire::split(guest::wire::Request(accepted));
    say(FrameType::kOpen, stream, pieces->front());
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
        guest::wire::append_frame(out_, FrameType::kReply, listener_, ++seq_,
                                  guest::wire::encode(reply));
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

// --- Agents over TCP
// ------------------------------------------------------------------------------

uint16_t port_of(const net::Listener& listener) {
  const std::string address = listener.address();
  return static_cast<uint16_t>(std::atoi(address.substr(address.rfind(':') + 1).c_str()));
}

// One connection of an agent, which blocks.
class AgentConnection {
 public:
  explicit AgentConnection(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int one = 1;
    ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      std::_Exit(1);
    }
  }

  int fd() const { return fd_.get(); }

  enum class Ask : uint8_t { kPlain, kStreamed };
  // Each with another body.
  void ask(Ask how, size_t number) {
    const std::string body =
        fmt::format(R"({{"model":"m"{},"messages":[{{"role":"user","content":"{}"}}]}})",
                    how == Ask::kStreamed ? R"(,"stream":true)" : "", number);
    const std::string request =
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
                    body.size(), body);
    const ssize_t sent = ::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(request.size())) std::_Exit(1);
    began = Clock::now();
  }
  // What there is now; waits for something.
  void read() {
    char buffer[16384];
    const ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n <= 0) std::_Exit(1);
    in.append(buffer, static_cast<size_t>(n));
  }
  // Whether a whole answer with a length has come; it is taken.
  bool take_answer() {
    const size_t end = in.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    constexpr std::string_view kLength = "\r\nContent-Length: ";
    const size_t at = in.find(kLength);
    if (at > end || in.compare(9, 3, "200") != 0) std::_Exit(1);
    if (in.size() < end + 4 + std::strtoul(in.c_str() + at + kLength.size(), nullptr, 10)) {
      return false;
    }
    in.clear();
    return true;
  }

  std::string in;
  Clock::time_point began;

 private:
  Fd fd_;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// --- Fairness
// --------------------------------------------------------------------------------------

// Answers some at a time and takes its time for it, so that calls wait for it.
void train_slowly(gate::Trainer trainer) {
  for (;;) {
    std::vector<gate::Trainer::Given> replies;
    for (const gate::Item& item : trainer.next_batch(8, 1h)) {
      if (const llm::Call* call = item.call()) replies.push_back({call->id, fixed_answer()});
    }
    trainer.reply(std::move(replies));
    std::this_thread::sleep_for(1ms);
  }
}

// The rollouts on one shard, each with a listener of its own.
[[noreturn]] void serve_rollouts(size_t rollouts, int ports) {
  net::Shard shard;
  gate::Handles gate = gate::make_gate({});
  for (size_t i = 0; i < rollouts; ++i) {
    const RolloutId id{fmt::format("r{}", i)};
    auto listener = net::listen_tcp(shard, "127.0.0.1", 0);
    if (!listener || !gate.for_operator.open(registration(shard, id.value))) std::_Exit(1);
    const uint16_t port = port_of(**listener);
    if (!gate.for_operator.serve(id, std::move(*listener))) std::_Exit(1);
    gate.for_operator.admit(id);
    if (::write(ports, &port, sizeof port) != sizeof port) std::_Exit(1);
  }
  std::thread(train_slowly, gate.for_trainer).detach();
  shard.run_until([] { return false; });
  std::_Exit(0);
}

struct Waits {
  std::vector<std::vector<double>> quiet;  // of each rollout's calls but the first's, in ms
  std::vector<double> flood;               // of the first's
};

// A call of each rollout open at all times, and `flood` of the first, until each of the others has
// had `calls` answers.
Waits ask_all(const std::vector<uint16_t>& ports, size_t flood, size_t calls) {
  static size_t asked = 0;
  struct Asker {
    AgentConnection connection;
    size_t rollout;
  };
  std::vector<std::unique_ptr<Asker>> askers;
  for (size_t i = 1; i < ports.size(); ++i) {
    askers.push_back(std::make_unique<Asker>(AgentConnection(ports[i]), i));
  }
  for (size_t i = 0; i < flood; ++i) {
    askers.push_back(std::make_unique<Asker>(AgentConnection(ports[0]), 0));
  }
  Waits waits;
  waits.quiet.resize(ports.size() - 1);
  size_t unfinished = waits.quiet.size(), open = 0;
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  for (const auto& asker : askers) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = asker.get();
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, asker->connection.fd(), &event);
    asker->connection.ask(AgentConnection::Ask::kPlain, ++asked);
    ++open;
  }
  std::vector<epoll_event> events(256);
  while (open > 0) {
    const int n = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), 60'000);
    if (n <= 0) std::_Exit(1);
    for (int i = 0; i < n; ++i) {
      auto& asker = *static_cast<Asker*>(events[static_cast<size_t>(i)].data.ptr);
      asker.connection.read();
      if (!asker.connection.take_answer()) continue;
      --open;
      const std::chrono::duration<double, std::milli> took = Clock::now() - asker.connection.began;
      auto& of = asker.rollout == 0 ? waits.flood : waits.quiet[asker.rollout - 1];
      of.push_back(took.count());
      if (asker.rollout > 0 && of.size() == calls) --unfinished;
      if (unfinished == 0) continue;
      asker.connection.ask(AgentConnection::Ask::kPlain, ++asked);
      ++open;
    }
  }
  ::close(epoll);
  return waits;
}

int be_fair(size_t rollouts, size_t flood, size_t calls) {
  int ends[2];
  if (::pipe(ends) != 0) return 1;
  const pid_t server = ::fork();
  if (server == 0) serve_rollouts(rollouts, ends[1]);
  std::vector<uint16_t> ports(rollouts);
  for (uint16_t& port : ports) {
    if (::read(ends[0], &port, sizeof port) != sizeof port) return 1;
  }
  // Alone, for what the flood adds; the first time for caches and pages.
  ask_all(ports, 0, calls);
  const Waits alone = ask_all(ports, 0, calls), flooded = ask_all(ports, flood, calls);
  ::kill(server, SIGKILL);
  const auto all = [](const Waits& waits) {
    std::vector<double> out;
    for (const auto& of : waits.quiet) out.insert(out.end(), of.begin(), of.end());
    return out;
  };
  const std::vector<double> waited = all(flooded);
  double worst_of_medians = 0;
  for (const auto& of : flooded.quiet) worst_of_medians = std::max(worst_of_medians, median(of));
  fmt::print(
      "{{\"rollouts\":{},\"flood\":{},\"calls\":{},\"median_ms\":{:.3f},\"worst_ms\":{:.3f},"
      "\"worst_rollouts_median_ms\":{:.3f},\"floods_median_ms\":{:.3f},"
      "\"median_ms_without_flood\":{:.3f}}}\n",
      rollouts, flood, waited.size(), median(waited),
      *std::max_element(waited.begin(), waited.end()), worst_of_medians, median(flooded.flood),
      median(all(alone)));
  return 0;
}

// --- Cancelling
// ------------------------------------------------------------------------------------

void on_shard(net::Shard& shard, const std::function<void()>& work) {
  std::promise<void> done;
  shard.post([&] {
    work();
    done.set_value();
  });
  done.get_future().get();
}

net::awaitable<void> close_and_tell(gate::Operator* gate, RolloutId id, std::promise<void>* done) {
  co_await gate->close(std::move(id));
  done->set_value();
}

int cancel(size_t rounds) {
  net::Shard shard, other;
  gate::GateOptions options;
  options.keep_alive = 1h;
  gate::Handles gate = gate::make_gate(options);
  shard.start();
  other.start();
  std::vector<double> took;
  for (size_t i = 0; i < 2 * rounds; ++i) {
    const auto how = i % 2 == 0 ? AgentConnection::Ask::kPlain : AgentConnection::Ask::kStreamed;
    const RolloutId id{fmt::format("r{}", i)};
    uint16_t port = 0;
    on_shard(shard, [&] {
      auto listener = net::listen_tcp(shard, "127.0.0.1", 0);
      if (!listener || !gate.for_operator.open(registration(shard, id.value))) std::_Exit(1);
      port = port_of(**listener);
      if (!gate.for_operator.serve(id, std::move(*listener))) std::_Exit(1);
      gate.for_operator.admit(id);
    });
    AgentConnection agent(port);
    agent.ask(how, i);
    const auto item = gate.for_trainer.next(id, 10s);
    if (!item || !*item) return 1;
    // A stream has its headers already.
    while (how == AgentConnection::Ask::kStreamed && !agent.in.ends_with("\r\n\r\n")) agent.read();
    agent.in.clear();
    std::promise<Clock::time_point> began;
    other.post([&] {
      began.set_value(Clock::now());
      gate.for_trainer.cancel(id, "stale");
    });
    agent.read();
    const auto told = Clock::now();
    const std::chrono::duration<double, std::milli> waited = told - began.get_future().get();
    took.push_back(waited.count());
    while (agent.in.find("was cancelled") == std::string::npos) agent.read();
    std::promise<void> closed;
    shard.spawn(close_and_tell(&gate.for_operator, id, &closed));
    closed.get_future().get();
  }
  fmt::print("{{\"cancels\":{},\"median_ms\":{:.3f},\"max_ms\":{:.3f}}}\n", took.size(),
             median(took), *std::max_element(took.begin(), took.end()));
  return 0;
}

int run(int argc, char** argv) {
  keep_heap();  // as the command does
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "bare") return serve_bare();
  if (what == "gate" && argc > 2) Served(argv[2], argc > 3 ? argv[3] : nullptr).run();
  const auto number = [&](int i) {
    return static_cast<size_t>(std::strtoull(argv[i], nullptr, 10));
  };
  if (what == "parked" && argc > 3) return park(number(2), number(3));
  if (what == "fairness" && argc > 4) return be_fair(number(2), number(3), number(4));
  if (what == "cancel" && argc > 2) return cancel(number(2));
  fmt::print(stderr,
             "usage: gate_bench_server bare | gate POLICY [DIR] | parked CALLS BODY_BYTES |\n"
             "                         fairness ROLLOUTS FLOOD CALLS | cancel ROUNDS\n");
  return 2;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
