// Ports inside that are served out here. Programs inside are bash and what it opens by itself.
#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area ports{"ports", {}};

namespace {

std::unique_ptr<net::Listener> listen(Try& t, Sandbox& sandbox, uint16_t port) {
  auto listener = t.wait(sandbox.listen(port));
  SLUICE_EXPECT_OK(t, listener);
  if (!listener) throw std::runtime_error("no listener: " + listener.error().message);
  return std::move(*listener);
}
std::string port_of(const net::Listener& listener) {
  const std::string address = listener.address();
  return address.substr(address.rfind(':') + 1);
}
std::unique_ptr<net::Stream> accept(Try& t, net::Listener& listener) {
  auto stream = t.wait(listener.accept());
  SLUICE_EXPECT_OK(t, stream);
  if (!stream) throw std::runtime_error("no connection: " + stream.error().message);
  return std::move(*stream);
}
// Up to the peer's end, or its reset (then what came before).
std::string read_all(Try& t, net::Stream& stream) {
  std::string all;
  Bytes buffer(64 * 1024, '\0');
  for (;;) {
    const auto n = t.wait(stream.read_some(as_writable_byte_span(buffer)));
    if (!n || *n == 0) return all;
    all.append(buffer, 0, *n);
  }
}
std::string tcp(const net::Listener& listener) {
  return "exec 3<>/dev/tcp/127.0.0.1/" + port_of(listener) + "; ";
}

SLUICE_CASE(ports, bytes_go_both_ways) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  const auto job = t.start(sandbox, tcp(*listener) + "printf 'question\\0\\377' >&3; cat <&3");
  const auto stream = accept(t, *listener);
  Bytes buffer(100, '\0');
  std::string got;
  while (got.size() < 10) {
    const auto n = t.wait(stream->read_some(as_writable_byte_span(buffer)));
    SLUICE_EXPECT_OK(t, n);
    if (!n || *n == 0) break;
    got.append(buffer, 0, *n);
  }
  SLUICE_EXPECT(t, got == std::string("question\0\377", 10));
  SLUICE_EXPECT_OK(t, t.wait(net::write_all(stream.get(), "answer\xff")));
  SLUICE_EXPECT_OK(t, t.wait(stream->drained(Deadline::in(kPatience))));
  stream->close();
  SLUICE_EXPECT(t, t.read(*job, Job::Channel::kOut) == "answer\xff");
}

SLUICE_CASE(ports, a_port_is_taken_once) {
  Sandbox& sandbox = t.fresh();
  const auto listener = listen(t, sandbox, 8123);
  SLUICE_EXPECT_EQ(t, listener->address(), "127.0.0.1:8123");
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.listen(8123)), ErrorCode::kAlreadyExists);
  const auto other = listen(t, sandbox, 0);
  SLUICE_EXPECT(t, port_of(*other) != "8123" && port_of(*other) != "0");
}

SLUICE_CASE(ports, it_listens_on_loopback_alone) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  char hex[8];
  std::snprintf(hex, sizeof hex, ":%04X", std::stoi(port_of(*listener)));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, std::string("grep -c 0100007F") + hex + " /proc/net/tcp"),
                   "1\n");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, std::string("grep -c 00000000") + hex + " /proc/net/tcp"),
                   "0\n");
}

SLUICE_CASE(ports, half_closing_keeps_the_other_half) {
  Sandbox& sandbox = t.shared();
  if (t.out(sandbox, "command -v python3 >/dev/null && echo y") != "y\n")
    return t.skip("no python3");
  const auto listener = listen(t, sandbox, 0);
  const auto job = t.start(
      sandbox,
      "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", " +
          port_of(*listener) +
          ")); s.sendall(b\"all of it\"); s.shutdown(1); print(s.makefile().read(), end=\"\")'");
  const auto stream = accept(t, *listener);
  SLUICE_EXPECT_EQ(t, read_all(t, *stream), "all of it");
  SLUICE_EXPECT_OK(t, t.wait(net::write_all(stream.get(), "and the answer")));
  SLUICE_EXPECT_OK(t, t.wait(stream->drained(Deadline::in(kPatience))));
  stream->close();
  SLUICE_EXPECT_EQ(t, t.read(*job, Job::Channel::kOut), "and the answer");
}

SLUICE_CASE(ports, much_goes_through_both_ways) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  const auto up = t.start(sandbox, tcp(*listener) + "head -c 20000000 /dev/zero >&3");
  auto stream = accept(t, *listener);
  SLUICE_EXPECT_EQ(t, read_all(t, *stream).size(), size_t{20'000'000});
  stream->close();
  const auto down = t.start(sandbox, tcp(*listener) + "cat <&3 | wc -c");
  stream = accept(t, *listener);
  const Bytes content(20'000'000, 'd');
  SLUICE_EXPECT_OK(t, t.wait(net::write_all(stream.get(), content)));
  SLUICE_EXPECT_OK(t, t.wait(stream->drained(Deadline::in(kPatience))));
  stream->close();
  SLUICE_EXPECT_EQ(t, t.read(*down, Job::Channel::kOut), "20000000\n");
}

awaitable<void> write_much(net::Stream* stream, bool* written) {
  const Bytes content(20'000'000, 's');
  auto done = co_await net::write_all(stream, content);
  *written = done.has_value();
}

SLUICE_CASE(ports, a_slow_reader_holds_up_only_itself) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  const auto slow = t.start(sandbox, tcp(*listener) + "read line; cat <&3 | wc -c");
  const auto stream = accept(t, *listener);
  bool written = false;
  t.shard().spawn(write_much(stream.get(), &written));
  t.sh(sandbox, "sleep 0.3");
  SLUICE_EXPECT(t, !written);
  // Others get on.
  const auto quick = t.start(sandbox, tcp(*listener) + "cat <&3");
  const auto second = accept(t, *listener);
  SLUICE_EXPECT_OK(t, t.wait(net::write_all(second.get(), "quick")));
  second->close();
  SLUICE_EXPECT_EQ(t, t.read(*quick, Job::Channel::kOut), "quick");
  SLUICE_EXPECT_OK(t, t.wait(slow->write_stdin("go\n")));
  t.shard().run_until([&] { return written; });
  stream->close();
  SLUICE_EXPECT_EQ(t, t.read(*slow, Job::Channel::kOut), "20000000\n");
}

SLUICE_CASE(ports, a_peer_that_goes_is_noticed) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  const auto job = t.start(sandbox, tcp(*listener) + "sleep 600");
  const auto stream = accept(t, *listener);
  bool told = false;
  stream->on_peer_closed([&](net::PeerClose) { told = true; });
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  t.shard().run_until([&] { return told; });
  SLUICE_EXPECT(t, told);
}

SLUICE_CASE(ports, a_closed_listener_refuses) {
  Sandbox& sandbox = t.shared();
  auto listener = listen(t, sandbox, 0);
  const std::string connect = "(exec 3<>/dev/tcp/127.0.0.1/" + port_of(*listener) +
                              ") 2>/dev/null && echo in || echo refused";
  SLUICE_EXPECT_EQ(t, t.out(sandbox, connect), "in\n");
  listener->close();
  listener.reset();
  std::string answer;
  for (int i = 0; i < 100 && answer != "refused\n"; ++i) answer = t.out(sandbox, connect);
  SLUICE_EXPECT_EQ(t, answer, "refused\n");
}

SLUICE_CASE(ports, two_hundred_connections_at_once) {
  Sandbox& sandbox = t.shared();
  const auto listener = listen(t, sandbox, 0);
  const auto job = t.start(
      sandbox, "for i in $(seq 200); do (exec 3<>/dev/tcp/127.0.0.1/" + port_of(*listener) +
                   "; echo $i >&3; read answer <&3; test \"$answer\" = \"got $i\" && echo right) & "
                   "done; wait");
  std::vector<std::unique_ptr<net::Stream>> streams;
  for (int i = 0; i < 200; ++i) streams.push_back(accept(t, *listener));
  for (const auto& stream : streams) {
    Bytes buffer(16, '\0');
    const auto n = t.wait(stream->read_some(as_writable_byte_span(buffer)));
    SLUICE_EXPECT_OK(t, n);
    const std::string answer = "got " + buffer.substr(0, n.value_or(0));
    SLUICE_EXPECT_OK(t, t.wait(net::write_all(stream.get(), answer)));
  }
  const std::string said = t.read(*job, Job::Channel::kOut);
  SLUICE_EXPECT_EQ(t, said.size(), size_t{200 * 6});
}

SLUICE_CASE(ports, listeners_of_two_sandboxes_are_two) {
  Sandbox& one = t.fresh();
  Sandbox& two = t.fresh();
  const auto first = listen(t, one, 8080);
  const auto second = listen(t, two, 8080);
  const auto job = t.start(two, tcp(*second) + "echo from two >&3");
  const auto stream = accept(t, *second);
  SLUICE_EXPECT_EQ(t, read_all(t, *stream), "from two\n");
}

}  // namespace

}  // namespace sluice::sandbox::conformance
