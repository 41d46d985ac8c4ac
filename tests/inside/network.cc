// network PORT NAME: the host's loopback (it listens on PORT), its abstract sockets (on NAME), the
// outside, and the address families beside the internet's.
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "attack.h"

namespace {

long connect_to(const char* host, uint16_t port, int type) {
  const int fd = ::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, host, &address.sin_addr);
  long result = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  // "In progress" would mean that a packet left.
  if (result != 0 && errno == EINPROGRESS) result = 1;
  ::close(fd);
  return result;
}

}  // namespace

int inside_network(int argc, char** argv) {
  if (argc != 3) return 77;
  const auto port = static_cast<uint16_t>(std::atoi(argv[1]));
  using attack::must_fail;
  // On the sandbox's own loopback nobody listens: at once refused, or in progress for a moment.
  const int local = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  must_fail("the host's loopback",
            ::connect(local, reinterpret_cast<sockaddr*>(&address), sizeof address));
  for (const char* host : {"1.1.1.1", "8.8.8.8", "169.254.169.254", "10.0.0.1", "172.17.0.1",
                           "192.168.0.1", "224.0.0.1"}) {
    must_fail(host, connect_to(host, 80, SOCK_STREAM));
    must_fail(host, connect_to(host, 53, SOCK_DGRAM));
  }
  const int six = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in6 address6{};
  address6.sin6_family = AF_INET6;
  address6.sin6_port = htons(80);
  ::inet_pton(AF_INET6, "2606:4700:4700::1111", &address6.sin6_addr);
  long result = ::connect(six, reinterpret_cast<sockaddr*>(&address6), sizeof address6);
  if (result != 0 && errno == EINPROGRESS) result = 1;
  must_fail("IPv6", result);

  const int unix_socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un abstract{};
  abstract.sun_family = AF_UNIX;
  std::strncpy(abstract.sun_path + 1, argv[2], sizeof abstract.sun_path - 2);
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + std::strlen(argv[2]));
  must_fail("the host's abstract socket",
            ::connect(unix_socket, reinterpret_cast<sockaddr*>(&abstract), length));

  // Every family but unix, IPv4, IPv6 and netlink's routes; also with the register's upper half
  // set.
  for (int family = 0; family < 64; ++family) {
    if (family == AF_UNSPEC || family == AF_UNIX || family == AF_INET || family == AF_INET6)
      continue;
    for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET}) {
      if (family == AF_NETLINK) continue;
      attack::must_fail_with("an address family", ::socket(family, type, 0), EAFNOSUPPORT);
      const uint64_t dressed = static_cast<uint64_t>(family) | uint64_t{1} << 32;
      attack::must_fail("an address family in disguise", ::syscall(SYS_socket, dressed, type, 0));
    }
  }
  for (int protocol = 1; protocol < 32; ++protocol) {
    attack::must_fail("netlink", ::socket(AF_NETLINK, SOCK_RAW, protocol));
    attack::must_fail("netlink in disguise",
                      ::syscall(SYS_socket, AF_NETLINK, SOCK_RAW,
                                static_cast<uint64_t>(protocol) | uint64_t{1} << 32));
  }
  must_fail("raw IP", ::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  must_fail("raw IPv6", ::socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
  // Changing what there is.
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = 0;
  must_fail("take the loopback down", ::ioctl(local, SIOCSIFFLAGS, &request));
  std::strcpy(request.ifr_name, "dummy0");
  must_fail("add a bridge", ::ioctl(local, 0x89a0 /* SIOCBRADDBR */, "br0"));
  must_fail("open a tunnel", ::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  return attack::broken;
}
