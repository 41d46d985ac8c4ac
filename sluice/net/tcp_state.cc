#include "sluice/net/tcp_state.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

namespace sluice::net {

Result<Unacknowledged> unacknowledged(int tcp_socket) {
  constexpr int kClosed = 7;  // TCP_CLOSE of the kernel's enumeration
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(tcp_socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
    return errno_error("ask for a connection's state", errno);
  }
  if (info.tcpi_state == kClosed) return Unacknowledged::kReset;
  const bool all = info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0;
  return all ? Unacknowledged::kNothing : Unacknowledged::kSome;
}

}  // namespace sluice::net
