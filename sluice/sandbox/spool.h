// Spool: bytes that one sandbox gave and others will be given, in a file that has no name and goes
// with the last holder: what is large and waits costs no memory.
//
// Written by one coroutine, then read by any number, on any shards; the files are a pool's work.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/net/executor.h"
#include "sluice/net/shard.h"

namespace sluice::sandbox {

using net::awaitable;

class Spool {
 public:
  explicit Spool(std::shared_ptr<net::BlockingPool> pool) : pool_(std::move(pool)) {}
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  uint64_t size() const { return size_; }
  awaitable<Result<void>> append(Bytes piece);
  // The next bytes from there on, `max` at most; empty at the end.
  awaitable<Result<Bytes>> read(uint64_t at, size_t max) const;
  // All of it into a file. Blocks.
  Result<void> save(const std::string& path, unsigned mode) const;

 private:
  Result<void> write(ByteView piece);

  const std::shared_ptr<net::BlockingPool> pool_;
  Fd file_;  // made with the first bytes, in /var/tmp or, failing that, /tmp
  uint64_t size_ = 0;
};

}  // namespace sluice::sandbox
