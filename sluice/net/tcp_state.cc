#include "sluice/net/tcp_state.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

namespace sluice::net {

Result<Unacknowledged> unacknowledged(int tcp_socket) {
  // Nearly always the whole answer, and together half as dear as TCP_INFO. A peer that closes with
  // our bytes unread resets the connection, and a closed one has no peer.
  int left = 0;
  sockaddr_storage peer{};
  socklen_t peer_size = sizeof peer;
  if (::ioctl(tcp_socket, SIOCOUTQ, &left) == 0 && left == 0 &&
      ::getpeername(tcp_socket, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0) {
    return Unacknowledged::kNothing;
  }
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
