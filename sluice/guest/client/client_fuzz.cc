// Arbitrary bytes of a guest against a client with one of everything pending: it must neither fall
// nor hang, and everything pending must end when the link does.
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/guest/client/client.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/net/shard.h"

namespace sluice::guest {
namespace {

// What a guest sent, then its end. What the client writes is dropped.
class ScriptedLink final : public Link {
 public:
  explicit ScriptedLink(ByteView script) : script_(script) {}

  bool passes_descriptors() const override { return true; }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into, std::vector<Fd>*) override {
    // After the hello, let the requests go out first: their streams must be there to be lied about.
    if (++reads_ > 1) {
      for (int i = 0; i < 20; ++i) co_await pass();
    }
    if (closed_) co_return Error(ErrorCode::kClosed, "closed");
    size_t n = std::min(into.size(), script_.size());
    if (reads_ == 1) n = std::min(n, hello_size());
    std::memcpy(into.data(), script_.data(), n);
    script_.remove_prefix(n);
    co_return n;
  }
  awaitable<Result<void>> write_all(ByteView) override { co_return Result<void>(); }
  void close() override { closed_ = true; }

 private:
  static size_t hello_size() {
    return wire::kHeaderBytes + wire::encode(wire::GuestHello{}).size();
  }
  static awaitable<void> pass() {
    net::Signal signal;
    signal.notify();
    co_await signal.wait();
    co_return co_await later();
  }
  static awaitable<void> later() {
    auto done = co_await net::sleep_until(Deadline(Clock::time_point()));
    static_cast<void>(done);
  }

  ByteView script_;
  int reads_ = 0;
  bool closed_ = false;
};

struct Fuzz {
  std::unique_ptr<Client> client;
  int pending = 0;
};

awaitable<void> do_exec(Fuzz* fuzz) {
  CommandRequest request;
  request.argv = {"x"};
  request.input = "input";
  request.output_cap = 100'000;
  (void)co_await fuzz->client->exec(std::move(request));
  --fuzz->pending;
}
awaitable<void> do_start(Fuzz* fuzz) {
  CommandRequest request;
  request.argv = {"x"};
  auto process = co_await fuzz->client->start(std::move(request));
  if (process) {
    (void)co_await (*process)->write_stdin("hello");
    (void)co_await (*process)->read_output(Process::Channel::kOut, 10);
    (void)co_await (*process)->signal(9);
    (void)co_await (*process)->wait(Deadline::never());
  }
  --fuzz->pending;
}
awaitable<void> do_read(Fuzz* fuzz) {
  auto reader = co_await fuzz->client->open_reader("/f", 1000, "0");
  while (reader) {
    auto piece = co_await (*reader)->read_some();
    if (!piece || piece->empty()) break;
  }
  --fuzz->pending;
}
awaitable<void> do_write(Fuzz* fuzz) {
  auto writer = co_await fuzz->client->open_writer("/f", 0644, "0");
  if (writer) {
    const Bytes content(1'000'000, 'w');
    const ByteView view = content;
    (void)co_await (*writer)->write(view);
    (void)co_await (*writer)->finish();
  }
  --fuzz->pending;
}
awaitable<void> do_list(Fuzz* fuzz) {
  (void)co_await fuzz->client->list("/", 1, 5, "0");
  (void)co_await fuzz->client->stat("/", "0");
  (void)co_await fuzz->client->give_tree("/", "0");
  --fuzz->pending;
}
awaitable<void> serve(Fuzz* fuzz, std::unique_ptr<net::Stream> stream) {
  Bytes buffer(1000, '\0');
  auto n = co_await stream->read_some(as_writable_byte_span(buffer));
  if (n) {
    (void)co_await net::write_all(stream.get(), "answer");
    (void)co_await stream->drained(Deadline::never());
    stream->on_peer_closed([](net::PeerClose) {});
  }
  --fuzz->pending;
}
awaitable<void> do_listen(Fuzz* fuzz, net::Shard* shard) {
  auto listener = co_await fuzz->client->listen(0, Carry::kConnections);
  while (listener) {
    auto stream = co_await (*listener)->accept();
    if (!stream) break;
    ++fuzz->pending;
    shard->spawn(serve(fuzz, std::move(*stream)));
  }
  --fuzz->pending;
}

awaitable<void> run(Fuzz* fuzz, net::Shard* shard, ByteView script) {
  std::unique_ptr<Link> link = std::make_unique<ScriptedLink>(script);
  auto client = co_await Client::connect(shard, std::move(link), ClientOptions());
  if (client) {
    fuzz->client = std::move(*client);
    fuzz->pending += 6;
    shard->spawn(do_exec(fuzz));
    shard->spawn(do_start(fuzz));
    shard->spawn(do_read(fuzz));
    shard->spawn(do_write(fuzz));
    shard->spawn(do_list(fuzz));
    shard->spawn(do_listen(fuzz, shard));
  }
  --fuzz->pending;
}

}  // namespace
}  // namespace sluice::guest

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  using namespace sluice::guest;
  net::Shard shard;
  Fuzz fuzz;
  fuzz.pending = 1;
  Bytes script;
  wire::append_frame(script, wire::FrameType::kHello, 0, 0, wire::encode(wire::GuestHello{}));
  script.append(reinterpret_cast<const char*>(data), size);
  shard.spawn(run(&fuzz, &shard, script));
  shard.run_until([&] { return fuzz.pending == 0; });
  fuzz.client.reset();
  shard.context().poll();
  return 0;
}
