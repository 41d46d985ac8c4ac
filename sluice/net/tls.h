// TLS for clients: wraps any Stream (OpenSSL over memory buffers, TLS 1.2 or newer). The peer's
// certificate is checked against the system's trust store and `host`; there is no way to turn that
// off.
#pragma once

#include <memory>
#include <string>

#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

// Trust and settings, made once and shared. Any thread.
class TlsContext {
 public:
  // The system's trust store (SSL_CERT_FILE and SSL_CERT_DIR are honoured, as by OpenSSL).
  static Result<TlsContext> system();
  // Trusts the certificates in `pem` alone; for tests and private authorities.
  static Result<TlsContext> trusting(ByteView pem);

  struct Impl;

 private:
  friend awaitable<Result<std::unique_ptr<Stream>>> connect_tls(Shard*, std::unique_ptr<Stream>,
                                                                TlsContext, std::string, Deadline);
  std::shared_ptr<Impl> impl_;
};

// Does the handshake over `plain`. Errors name `host` and what was wrong with its certificate.
awaitable<Result<std::unique_ptr<Stream>>> connect_tls(Shard* shard, std::unique_ptr<Stream> plain,
                                                       TlsContext context, std::string host,
                                                       Deadline deadline);

}  // namespace sluice::net
