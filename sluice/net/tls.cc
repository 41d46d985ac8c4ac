#include "sluice/net/tls.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/net/wait.h"
#include "sluice/net/wheel.h"

namespace sluice::net {
namespace {

constexpr size_t kRecord = 17 * 1024;  // a TLS record with its overhead
constexpr size_t kWritePiece = 64 * 1024;

// OpenSSL keeps a queue of errors for each thread; the newest says most.
std::string openssl_error() {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = error != 0 ? ERR_reason_error_string(error) : nullptr;
  return reason != nullptr ? reason : "unknown error";
}

struct Free {
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(SSL* p) const { SSL_free(p); }
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509* p) const { X509_free(p); }
};

bool is_ip_address(const std::string& host) {
  unsigned char buffer[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, host.c_str(), buffer) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

}  // namespace

struct TlsContext::Impl {
  std::unique_ptr<SSL_CTX, Free> ctx{SSL_CTX_new(TLS_client_method())};

  Impl() {
    CHECK(ctx != nullptr);
    SSL_CTX_set_min_proto_version(ctx.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(ctx.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_mode(ctx.get(), SSL_MODE_RELEASE_BUFFERS);
    constexpr unsigned char protocols[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(ctx.get(), protocols, sizeof protocols - 1);
  }
};

Result<TlsContext> TlsContext::system() {
  TlsContext context;
  context.impl_ = std::make_shared<Impl>();
  if (SSL_CTX_set_default_verify_paths(context.impl_->ctx.get()) != 1) {
    return Error(ErrorCode::kIo, "the system's trusted certificates cannot be read: " +
                                     openssl_error() + " (Debian's package: ca-certificates)");
  }
  return context;
}

Result<TlsContext> TlsContext::trusting(ByteView pem) {
  TlsContext context;
  context.impl_ = std::make_shared<Impl>();
  X509_STORE* store = SSL_CTX_get_cert_store(context.impl_->ctx.get());
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  int certificates = 0;
  while (auto* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    const std::unique_ptr<X509, Free> owned(certificate);
    if (X509_STORE_add_cert(store, certificate) == 1) ++certificates;
  }
  ERR_clear_error();  // the end of the text is an "error" too
  if (certificates == 0) {
    return Error(ErrorCode::kInvalidArgument, "there is no certificate (PEM) to trust");
  }
  return context;
}

namespace {

// The state of one connection. OpenSSL itself never waits: it reads from one memory buffer and
// writes to another, which the coroutines below fill and empty.
struct Tls {
  Tls(Shard* s, std::unique_ptr<Stream> p, SSL* new_ssl, std::string h)
      : shard(s), plain(std::move(p)), host(std::move(h)), ssl(new_ssl) {
    in = BIO_new(BIO_s_mem());
    out = BIO_new(BIO_s_mem());
    CHECK(in != nullptr && out != nullptr);
    SSL_set_bio(ssl.get(), in, out);  // owns both now
  }

  Error failed(ErrorCode code, std::string_view why) const {
    return Error(code, fmt::format("TLS with {}: {}", host, why));
  }

  Shard* shard;
  std::unique_ptr<Stream> plain;
  std::string host;
  std::unique_ptr<SSL, Free> ssl;
  BIO* in;   // what came from the peer
  BIO* out;  // what goes to the peer

  // A reader and a writer may both have something to send; one of them does it for both.
  bool flushing = false;
  Signal flushed;
  std::optional<Error> unwritable;
  // A reader and the watch may both want bytes from the peer; one of them gets them for both.
  bool filling = false;
  Signal filled;
  Bytes buffer;
  bool ended = false;  // the peer's side of the plain stream is over
  std::function<void(PeerClose)> on_closed;
  bool watching = false;
};

// Returns when nothing is left to send.
awaitable<Result<void>> flush(Tls* tls) {
  while (tls->flushing || BIO_ctrl_pending(tls->out) > 0) {
    if (tls->unwritable) co_return *tls->unwritable;
    if (tls->flushing) {
      SLUICE_CO_TRY_VOID(co_await wait_for(&tls->flushed));
      continue;
    }
    Bytes bytes(BIO_ctrl_pending(tls->out), '\0');
    CHECK(BIO_read(tls->out, bytes.data(), static_cast<int>(bytes.size())) ==
          static_cast<int>(bytes.size()));
    tls->flushing = true;
    const auto written = co_await write_all(tls->plain.get(), bytes);
    tls->flushing = false;
    if (!written) tls->unwritable = written.error();
    tls->flushed.notify();
  }
  if (tls->unwritable) co_return *tls->unwritable;
  co_return Result<void>();
}

// Gets more bytes from the peer, or finds that there are no more (`ended`).
awaitable<Result<void>> fill(Tls* tls) {
  if (tls->ended) co_return Result<void>();
  if (tls->filling) co_return co_await wait_for(&tls->filled);
  tls->filling = true;
  tls->buffer.resize(kRecord);
  const auto room = as_writable_byte_span(tls->buffer);
  const auto n = co_await tls->plain->read_some(room);
  tls->filling = false;
  if (n && *n > 0) {
    CHECK(BIO_write(tls->in, tls->buffer.data(), static_cast<int>(*n)) == static_cast<int>(*n));
  } else if (n) {
    tls->ended = true;
  }
  tls->filled.notify();
  if (!n) co_return n.error();
  co_return Result<void>();
}

// Why OpenSSL gave up.
Error ssl_failure(const Tls& tls) {
  if (const long verdict = SSL_get_verify_result(tls.ssl.get()); verdict != X509_V_OK) {
    ERR_clear_error();
    return tls.failed(ErrorCode::kProtocol, fmt::format("its certificate is not accepted: {}",
                                                        X509_verify_cert_error_string(verdict)));
  }
  return tls.failed(ErrorCode::kProtocol, openssl_error());
}

awaitable<Result<void>> handshake(Tls* tls) {
  for (;;) {
    ERR_clear_error();
    const int done = SSL_connect(tls->ssl.get());
    const int why = SSL_get_error(tls->ssl.get(), done);
    if (done != 1 && why != SSL_ERROR_WANT_READ) {
      Error failure = ssl_failure(*tls);
      const auto told = co_await flush(tls);  // the alert that says why
      co_return failure;
    }
    const auto flushed = co_await flush(tls);
    if (!flushed) co_return tls->failed(flushed.error().code, flushed.error().message);
    if (done == 1) co_return Result<void>();
    const auto filled = co_await fill(tls);
    if (!filled) co_return tls->failed(filled.error().code, filled.error().message);
    if (tls->ended) {
      co_return tls->failed(ErrorCode::kClosed, "the peer closed during the handshake");
    }
  }
}

class TlsStream final : public Stream {
 public:
  explicit TlsStream(std::shared_ptr<Tls> tls) : tls_(std::move(tls)) {}
  ~TlsStream() override { TlsStream::close(); }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override {
    for (;;) {
      ERR_clear_error();
      size_t n = 0;
      const int got = SSL_read_ex(tls_->ssl.get(), into.data(), into.size(), &n);
      const int why = SSL_get_error(tls_->ssl.get(), got);
      if (got == 1) co_return n;
      if (why == SSL_ERROR_ZERO_RETURN) co_return size_t{0};
      if (why != SSL_ERROR_WANT_READ) co_return ssl_failure(*tls_);
      // Reading may make OpenSSL answer (a key update). A writer that is at work sends that too;
      // waiting for it could be for ever, if the peer reads only what it has been read.
      if (!tls_->flushing) {
        SLUICE_CO_TRY_VOID(co_await flush(tls_.get()));
      }
      if (tls_->ended) {
        co_return tls_->failed(ErrorCode::kClosed,
                               "the connection ended without TLS's own end: what came may be cut");
      }
      SLUICE_CO_TRY_VOID(co_await fill(tls_.get()));
    }
  }

  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(bytes.size(), kWritePiece));
      ERR_clear_error();
      size_t n = 0;
      // The buffer behind it has no limit: OpenSSL takes all or fails.
      if (SSL_write_ex(tls_->ssl.get(), piece.data(), piece.size(), &n) != 1) {
        co_return ssl_failure(*tls_);
      }
      SLUICE_CO_TRY_VOID(co_await flush(tls_.get()));
      bytes = bytes.subspan(n);
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> drained(Deadline deadline) override {
    SLUICE_CO_TRY_VOID(co_await flush(tls_.get()));
    co_return co_await tls_->plain->drained(deadline);
  }

  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    tls_->on_closed = std::move(callback);
    if (tls_->on_closed && !tls_->watching) {
      tls_->watching = true;
      tls_->shard->spawn(watch(tls_));
    }
  }

  void finish() override {
    ERR_clear_error();
    SSL_shutdown(tls_->ssl.get());
    tls_->shard->spawn(flush_rest(tls_));
  }

  void close() override {
    tls_->on_closed = nullptr;
    tls_->plain->close();
  }

  std::string peer() const override { return tls_->plain->peer(); }

 private:
  // Whoever is sending sends this too: one more to wait for that would be one too many.
  static awaitable<void> flush_rest(std::shared_ptr<Tls> tls) {
    if (tls->flushing) co_return;
    const auto ignored = co_await flush(tls.get());
  }

  // Reads records until one says something: the end of the peer's side is a record too.
  static awaitable<void> watch(std::shared_ptr<Tls> tls) {
    std::optional<PeerClose> seen;
    while (tls->on_closed && !seen) {
      ERR_clear_error();
      char byte;
      size_t n = 0;
      const int got = SSL_peek_ex(tls->ssl.get(), &byte, 1, &n);
      if (got == 1) break;
      const int why = SSL_get_error(tls->ssl.get(), got);
      if (why == SSL_ERROR_ZERO_RETURN || (why == SSL_ERROR_WANT_READ && tls->ended)) {
        seen = PeerClose::kFin;
      } else if (why != SSL_ERROR_WANT_READ) {
        seen = PeerClose::kReset;
      } else {
        const auto filled = co_await fill(tls.get());
        if (!filled) seen = PeerClose::kReset;
      }
    }
    tls->watching = false;
    const auto callback = std::exchange(tls->on_closed, nullptr);
    if (callback && seen) callback(*seen);
  }

  std::shared_ptr<Tls> tls_;
};

}  // namespace

awaitable<Result<std::unique_ptr<Stream>>> connect_tls(Shard* shard, std::unique_ptr<Stream> plain,
                                                       TlsContext context, std::string host,
                                                       Deadline deadline) {
  CHECK(context.impl_ != nullptr);
  SSL* ssl = SSL_new(context.impl_->ctx.get());
  CHECK(ssl != nullptr);
  const auto tls = std::make_shared<Tls>(shard, std::move(plain), ssl, host);
  bool ready = false;
  if (is_ip_address(host)) {
    ready = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  } else {
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    ready =
        SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
  }
  if (host.empty() || host.find('\0') != std::string::npos || !ready) {
    co_return Error(ErrorCode::kInvalidArgument, "TLS: \"" + host + "\" is no host's name");
  }
  bool late = false;
  Wheel::Timer timer(shard->wheel());
  timer.arm(deadline, [&] {
    late = true;
    tls->plain->close();
  });
  const auto done = co_await handshake(tls.get());
  timer.disarm();
  if (late) co_return tls->failed(ErrorCode::kTimedOut, "no handshake in time");
  if (!done) co_return done.error();
  co_return std::unique_ptr<Stream>(std::make_unique<TlsStream>(tls));
}

}  // namespace sluice::net
