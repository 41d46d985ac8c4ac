#include "sluice/net/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>

#include <functional>
#include <thread>

#include "sluice/base/core/fd.h"
#include "sluice/net/http_client.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/socket.h"
#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

struct Free {
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(SSL* p) const { SSL_free(p); }
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// A certificate and its key, made for one test run.
struct Identity {
  Owned<EVP_PKEY> key;
  Owned<X509> certificate;

  std::string pem() const {
    Owned<BIO> bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509(bio.get(), certificate.get());
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<size_t>(size)};
  }
};

struct Wish {
  std::string name = "localhost";
  std::string alternative = "DNS:localhost,DNS:*.wild.test,IP:127.0.0.1";
  long from = -3600, until = 3600;  // seconds from now
};

void add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  Owned<X509_EXTENSION> extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension.get(), -1);
}

// Signed by `issuer`, or by itself.
Identity make(const Wish& wish, const Identity* issuer, const char* constraints = "CA:FALSE") {
  static long serial = 1;
  Identity made{Owned<EVP_PKEY>(EVP_EC_gen("P-256")), Owned<X509>(X509_new())};
  X509* x = made.certificate.get();
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
  X509_gmtime_adj(X509_getm_notBefore(x), wish.from);
  X509_gmtime_adj(X509_getm_notAfter(x), wish.until);
  X509_set_pubkey(x, made.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(wish.name.c_str()), -1, -1, 0);
  X509* signer = issuer != nullptr ? issuer->certificate.get() : x;
  X509_set_issuer_name(x, X509_get_subject_name(signer));
  add_extension(x, signer, NID_basic_constraints, std::string("critical,") + constraints);
  if (!wish.alternative.empty()) add_extension(x, signer, NID_subject_alt_name, wish.alternative);
  X509_sign(x, issuer != nullptr ? issuer->key.get() : made.key.get(), EVP_sha256());
  return made;
}

// A TLS server on one end of a socket pair, on a thread of its own, with plain blocking OpenSSL.
class TlsServer {
 public:
  // Runs `talk` after a handshake that went well.
  TlsServer(const Identity& identity, Fd fd, std::function<void(SSL*)> talk,
            int max_version = TLS1_3_VERSION)
      : fd_(std::move(fd)), ctx_(SSL_CTX_new(TLS_server_method())) {
    SSL_CTX_use_certificate(ctx_.get(), identity.certificate.get());
    SSL_CTX_use_PrivateKey(ctx_.get(), identity.key.get());
    SSL_CTX_set_min_proto_version(ctx_.get(), TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx_.get(), max_version);
    thread_ = std::thread([this, talk = std::move(talk)] {
      Owned<SSL> ssl(SSL_new(ctx_.get()));
      SSL_set_fd(ssl.get(), fd_.get());
      accepted_ = SSL_accept(ssl.get()) == 1;
      if (accepted_) {
        if (const char* name = SSL_get_servername(ssl.get(), TLSEXT_NAMETYPE_host_name)) {
          server_name_ = name;
        }
        talk(ssl.get());
      }
      ssl.reset();
      fd_.reset();
    });
  }
  ~TlsServer() { join(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  bool accepted() const { return accepted_; }
  const std::string& server_name() const { return server_name_; }

 private:
  Fd fd_;
  Owned<SSL_CTX> ctx_;
  bool accepted_ = false;
  std::string server_name_;
  std::thread thread_;
};

void echo(SSL* ssl) {
  char buffer[70'000];
  for (;;) {
    const int n = SSL_read(ssl, buffer, sizeof buffer);
    if (n <= 0) return;
    SSL_write(ssl, buffer, n);
  }
}

class TlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // The servers here write with plain write(2) to clients that have gone.
    ::signal(SIGPIPE, SIG_IGN);
    authority_ = new Identity(make({"Test Authority", ""}, nullptr, "CA:TRUE"));
  }
  static void TearDownTestSuite() { delete authority_; }

  Result<std::unique_ptr<Stream>> connect(const std::string& host, Fd fd,
                                          Deadline deadline = Deadline::in(10s)) {
    auto plain = adopt_socket(shard_, std::move(fd));
    EXPECT_TRUE(plain);
    return testing::run(shard_, connect_tls(&shard_, std::move(*plain), context_, host, deadline));
  }
  // A client's stream to a server that has `identity`.
  Result<std::unique_ptr<Stream>> connect(const std::string& host, const Identity& identity,
                                          std::function<void(SSL*)> talk = echo,
                                          int max_version = TLS1_3_VERSION) {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    server_.emplace(identity, Fd(fds[0]), std::move(talk), max_version);
    return connect(host, Fd(fds[1]));
  }
  Result<Bytes> read(Stream& stream) {
    Bytes buffer(100'000, '\0');
    const auto n = testing::run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    if (!n) return n.error();
    buffer.resize(*n);
    return buffer;
  }

  static Identity* authority_;
  Shard shard_;
  TlsContext context_ = *TlsContext::trusting(authority_->pem());
  std::optional<TlsServer> server_;
};
Identity* TlsTest::authority_ = nullptr;

awaitable<void> write_then_set(Stream* stream, Bytes bytes, bool* done) {
  const auto written = co_await write_all(stream, bytes);
  EXPECT_TRUE(written);
  *done = true;
}

TEST_F(TlsTest, CarriesBytesBothWaysAtOnce) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    auto stream = connect("localhost", make({}, authority_), echo, version);
    ASSERT_TRUE(stream) << stream.error().message;
    Bytes sent;
    for (int i = 0; i < 1'000'000; ++i) sent.push_back(static_cast<char>(i * 7 + i / 1000));
    bool written = false;
    shard_.spawn(write_then_set(stream->get(), sent, &written));
    Bytes got;
    while (got.size() < sent.size()) {
      auto piece = read(**stream);
      ASSERT_TRUE(piece);
      ASSERT_FALSE(piece->empty());
      got += *piece;
    }
    EXPECT_EQ(got, sent);
    EXPECT_TRUE(written);
    EXPECT_TRUE(testing::run(shard_, (*stream)->drained(Deadline::in(5s))));
    (*stream)->close();
    EXPECT_FALSE(read(**stream));
    server_->join();
    EXPECT_EQ(server_->server_name(), "localhost");
  }
}

TEST_F(TlsTest, ChecksAddressesAndWildcardsAsNames) {
  EXPECT_TRUE(connect("127.0.0.1", make({}, authority_)));
  server_->join();
  EXPECT_EQ(server_->server_name(), "") << "an address is not sent as a name";
  EXPECT_TRUE(connect("a.wild.test", make({}, authority_)));
  EXPECT_FALSE(connect("a.b.wild.test", make({}, authority_)));
  EXPECT_FALSE(connect("wild.test", make({}, authority_)));
  EXPECT_FALSE(connect("127.0.0.2", make({}, authority_)));
}

TEST_F(TlsTest, SaysWhichHostAndWhatIsWrongWithItsCertificate) {
  struct Case {
    std::string host;
    Identity identity;
    const char* why;
  };
  const Identity stranger = make({"Stranger", ""}, nullptr, "CA:TRUE");
  std::vector<Case> cases;
  cases.push_back({"other.test", make({}, authority_), "hostname mismatch"});
  cases.push_back({"127.0.0.9", make({}, authority_), "IP address mismatch"});
  cases.push_back({"localhost", make({"localhost", "DNS:localhost", -7200, -3600}, authority_),
                   "certificate has expired"});
  cases.push_back({"localhost", make({"localhost", "DNS:localhost", 3600, 7200}, authority_),
                   "certificate is not yet valid"});
  cases.push_back({"localhost", make({}, nullptr), "self-signed certificate"});
  cases.push_back({"localhost", make({}, &stranger), "unable to get local issuer certificate"});
  for (const Case& c : cases) {
    const auto stream = connect(c.host, c.identity);
    ASSERT_FALSE(stream) << c.why;
    EXPECT_EQ(stream.error().code, ErrorCode::kProtocol);
    EXPECT_FALSE(stream.error().retryable);
    EXPECT_THAT(stream.error().message, HasSubstr("TLS with " + c.host));
    EXPECT_THAT(stream.error().message, HasSubstr(c.why));
  }
}

TEST_F(TlsTest, OldVersionsAreRefused) {
  const auto stream = connect("localhost", make({}, authority_), echo, TLS1_1_VERSION);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code, ErrorCode::kProtocol);
  server_->join();
  EXPECT_FALSE(server_->accepted());
}

TEST_F(TlsTest, TheSystemsTrustDoesNotKnowOurAuthority) {
  auto system = TlsContext::system();
  ASSERT_TRUE(system);
  context_ = *system;
  EXPECT_FALSE(connect("localhost", make({}, authority_)));
}

TEST_F(TlsTest, TrustNeedsACertificate) {
  EXPECT_EQ(TlsContext::trusting("").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(TlsContext::trusting("not PEM").error().code, ErrorCode::kInvalidArgument);
}

TEST_F(TlsTest, AnOrderlyEndIsAnEndACutIsAnError) {
  auto orderly = connect("localhost", make({}, authority_), [](SSL* ssl) {
    SSL_write(ssl, "last", 4);
    SSL_shutdown(ssl);
  });
  ASSERT_TRUE(orderly);
  EXPECT_EQ(read(**orderly), "last");
  EXPECT_EQ(read(**orderly), "");
  EXPECT_EQ(read(**orderly), "");

  auto cut = connect("localhost", make({}, authority_), [](SSL* ssl) {
    SSL_write(ssl, "last", 4);
    SSL_set_quiet_shutdown(ssl, 1);
  });
  ASSERT_TRUE(cut);
  EXPECT_EQ(read(**cut), "last");
  const auto end = read(**cut);
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::kClosed);
  EXPECT_THAT(end.error().message, HasSubstr("TLS with localhost"));
}

TEST_F(TlsTest, HalfACloseIsToldAndReadingGoesOn) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    auto stream = connect(
        "localhost", make({}, authority_),
        [](SSL* ssl) {
          Bytes all;
          char buffer[100];
          int n = 0;
          while ((n = SSL_read(ssl, buffer, sizeof buffer)) > 0) {
            all.append(buffer, static_cast<size_t>(n));
          }
          all += SSL_get_error(ssl, n) == SSL_ERROR_ZERO_RETURN ? " and the end" : " cut";
          SSL_write(ssl, all.data(), static_cast<int>(all.size()));
          SSL_shutdown(ssl);
        },
        version);
    ASSERT_TRUE(stream) << stream.error().message;
    ASSERT_TRUE(testing::run(shard_, write_all(stream->get(), "all of it")));
    (*stream)->finish();
    EXPECT_EQ(read(**stream), "all of it and the end");
    EXPECT_EQ(read(**stream), "");
  }
}

TEST_F(TlsTest, APeerThatSpeaksNoTlsIsSaid) {
  for (const Bytes& talk : {Bytes("HTTP/1.1 400 Bad Request\r\n\r\n"), Bytes(1000, '\0'),
                            Bytes("\x16\x03\x03\xff\xff" + Bytes(70'000, 'x'))}) {
    MemoryPair pair = memory_pair(shard_);
    ASSERT_TRUE(testing::run(shard_, write_all(pair.second.get(), talk)));
    const auto stream = testing::run(shard_, connect_tls(&shard_, std::move(pair.first), context_,
                                                         "localhost", Deadline::in(5s)));
    ASSERT_FALSE(stream);
    EXPECT_EQ(stream.error().code, ErrorCode::kProtocol);
  }
  MemoryPair pair = memory_pair(shard_);
  pair.second->close();
  const auto closed = testing::run(
      shard_, connect_tls(&shard_, std::move(pair.first), context_, "localhost", Deadline::in(5s)));
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().code, ErrorCode::kClosed);
}

TEST_F(TlsTest, AHandshakeHasADeadline) {
  MemoryPair pair = memory_pair(shard_);
  const auto stream = testing::run(shard_, connect_tls(&shard_, std::move(pair.first), context_,
                                                       "localhost", Deadline::in(20ms)));
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code, ErrorCode::kTimedOut);
}

TEST_F(TlsTest, HostsThatAreNoneAreRefused) {
  for (const std::string& host : {std::string(), std::string("a\0b", 3), std::string(300, 'a')}) {
    MemoryPair pair = memory_pair(shard_);
    const auto stream = testing::run(
        shard_, connect_tls(&shard_, std::move(pair.first), context_, host, Deadline::in(5s)));
    ASSERT_FALSE(stream);
    EXPECT_EQ(stream.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST_F(TlsTest, TellsWhoWatchesThatThePeerClosed) {
  auto stream = connect("localhost", make({}, authority_), [](SSL* ssl) {
    char byte;
    SSL_read(ssl, &byte, 1);
    SSL_shutdown(ssl);
  });
  ASSERT_TRUE(stream);
  std::optional<PeerClose> seen;
  (*stream)->on_peer_closed([&](PeerClose close) { seen = close; });
  shard_.context().poll();
  EXPECT_FALSE(seen);
  bool written = false;
  shard_.spawn(write_then_set(stream->get(), "x", &written));
  shard_.run_until([&] { return seen.has_value(); });
  EXPECT_EQ(seen, PeerClose::kFin);
  EXPECT_EQ(read(**stream), "");
}

TEST_F(TlsTest, BytesEndTheWatchAndAreKept) {
  auto stream = connect("localhost", make({}, authority_));
  ASSERT_TRUE(stream);
  bool called = false;
  (*stream)->on_peer_closed([&](PeerClose) { called = true; });
  bool written = false;
  shard_.spawn(write_then_set(stream->get(), "hello", &written));
  EXPECT_EQ(read(**stream), "hello");
  (*stream)->close();
  shard_.context().poll();
  EXPECT_FALSE(called);
}

awaitable<Result<std::unique_ptr<Stream>>> connect_over(Shard* shard, TlsContext context, int fd) {
  auto plain = adopt_socket(*shard, Fd(fd));
  co_return co_await connect_tls(shard, std::move(*plain), context, "localhost", Deadline::in(5s));
}

TEST_F(TlsTest, HttpRunsOnIt) {
  const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  const Identity identity = make({}, authority_);
  TlsServer server(identity, Fd(fds[0]), [&](SSL* ssl) {
    // Two requests on one connection.
    for (int i = 0; i < 2; ++i) {
      char buffer[4096];
      if (SSL_read(ssl, buffer, sizeof buffer) <= 0) return;
      SSL_write(ssl, answer.data(), static_cast<int>(answer.size()));
    }
  });
  {
    HttpClient client(
        shard_, [&](Deadline) { return connect_over(&shard_, context_, fds[1]); }, "localhost");
    for (int i = 0; i < 2; ++i) {
      const auto got = testing::run(shard_, client.fetch({"GET", "/", {}, {}}, Deadline::in(5s)));
      ASSERT_TRUE(got) << got.error().message;
      EXPECT_EQ(got->body, "secret");
    }
  }
  shard_.context().poll();
}

}  // namespace
}  // namespace sluice::net
