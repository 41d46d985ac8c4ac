// Streams and listeners over the kernel's sockets: TCP and unix.
//
// An accepted TCP connection whose peer is gone without a word ends after two minutes, as one that
// was reset does.
//
// Everything here is made and used on one shard. Names are looked up on a BlockingPool thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/net/address.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

// Listens on `host`:`port`; port 0 takes a free one (see Listener::address). `host` is a numeric
// address.
Result<std::unique_ptr<Listener>> listen_tcp(Shard& shard, const std::string& host, uint16_t port);

// Listens on a unix socket. A stale socket file at `path` is replaced, a live one is
// kAlreadyExists.
Result<std::unique_ptr<Listener>> listen_unix(Shard& shard, const std::string& path);

// Takes over a listening TCP socket, wherever it was made (a sandbox's network namespace).
Result<std::unique_ptr<Listener>> adopt_tcp_listener(Shard& shard, Fd listening);

// Takes over a connected stream socket (TCP or unix).
Result<std::unique_ptr<Stream>> adopt_socket(Shard& shard, Fd connected);

// The numeric addresses of `host`; kUnavailable with the resolver's reason. Blocks: on a thread of
// a BlockingPool.
Result<std::vector<std::string>> look_up(const std::string& host);

// Tries the addresses of `host` in order until one answers or the deadline passes. kUnavailable
// (refused, unreachable, no such name) or kTimedOut; the message names host and port.
awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(Shard* shard, BlockingPool* names,
                                                       std::string host, uint16_t port,
                                                       Deadline deadline);
// The same, if all the addresses pass `check`: one that does not, and the name is not to be
// trusted.
awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(Shard* shard, BlockingPool* names,
                                                       std::string host, uint16_t port,
                                                       AddressCheck check, Deadline deadline);

awaitable<Result<std::unique_ptr<Stream>>> connect_unix(Shard* shard, std::string path,
                                                        Deadline deadline);

}  // namespace sluice::net
