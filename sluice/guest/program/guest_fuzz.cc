// Arbitrary bytes of a host against the guest: it must not fall, what it answers must be
// well-formed frames, and it must end when the link does. No process is started and no port opened.
#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/base/core/fd.h"
#include "sluice/guest/program/guest.h"
#include "sluice/guest/wire/frame.h"

namespace {

using namespace sluice;
using namespace sluice::guest;

pid_t no_fork() {
  errno = EAGAIN;
  return -1;
}

// Reads all that the guest has said.
void check_answers(int fd, wire::Decoder* decoder, wire::Incoming* incoming) {
  for (;;) {
    const auto space = decoder->space();
    const ssize_t n = ::recv(fd, space.data(), space.size(), MSG_DONTWAIT);
    if (n <= 0) return;
    decoder->commit(static_cast<size_t>(n));
    for (;;) {
      const auto frame = decoder->next();
      CHECK(frame.has_value());
      if (!*frame) break;
      CHECK(incoming->accept(**frame).has_value());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  int ends[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  Fd host(ends[0]);
  const Fd link(ends[1]);
  program::GuestOptions options;
  options.link_in = options.link_out = link.get();
  options.log = -1;
  options.fork = no_fork;
  options.may_listen = false;
  program::Guest guest(options);
  wire::Decoder decoder;
  wire::Incoming incoming;
  Bytes script;
  wire::append_frame(script, wire::FrameType::kHello, 0, 0, wire::encode(wire::HostHello{}));
  script.append(reinterpret_cast<const char*>(data), size);
  const Deadline now = Deadline(Clock::time_point());
  ByteView rest = script;
  bool ended = false;
  while (!ended && !rest.empty()) {
    const ssize_t n = ::send(host.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) rest.remove_prefix(static_cast<size_t>(n));
    ended = guest.pass(now).has_value();
    check_answers(host.get(), &decoder, &incoming);
  }
  for (int i = 0; i < 20 && !ended; ++i) {
    ended = guest.pass(now).has_value();
    check_answers(host.get(), &decoder, &incoming);
  }
  host.reset();
  for (int i = 0; i < 20 && !ended; ++i) ended = guest.pass(now).has_value();
  CHECK(ended);
  return 0;
}
