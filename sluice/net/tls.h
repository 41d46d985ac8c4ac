// TLS for clients: wraps any Stream (OpenSSL over memory buffers, TLS 1.2 or newer). The peer's
// certificate is checked against the system's trust store and `host`; there is no way to turn that
// off.
//
// The end of the peer's side is an end (read_some() gives 0) only if TLS itself said so
// (close_notify); a connection that just stops is kClosed, because anybody on the way could have
// cut it. on_peer_closed() reports both as kFin. finish() sends close_notify, close() does not:
// what runs on this says itself where its messages end.
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
