#include "sluice/base/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "sluice/base/core/check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {

std::string Digest::hex() const {
  Bytes raw(16, '\0');
  for (int i = 0; i < 8; ++i) {
    raw[static_cast<size_t>(i)] = static_cast<char>(high >> (56 - 8 * i));
    raw[static_cast<size_t>(i) + 8] = static_cast<char>(low >> (56 - 8 * i));
  }
  return to_hex(raw);
}

Digest xxh3_128(ByteView bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

std::string sha256_hex(ByteView bytes) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_Digest(bytes.data(), bytes.size(), out, &size, EVP_sha256(), nullptr) == 1);
  return to_hex({reinterpret_cast<const char*>(out), size});
}

Sha256::Sha256()
    : context_(EVP_MD_CTX_new(), [](void* c) { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(c)); }) {
  auto* context = static_cast<EVP_MD_CTX*>(context_.get());
  CHECK(context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1);
}

void Sha256::add(ByteView bytes) {
  CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size()) ==
        1);
}

std::string Sha256::hex() {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), out, &size) == 1);
  return to_hex({reinterpret_cast<const char*>(out), size});
}

Bytes hmac_sha256(ByteView key, ByteView message) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  // To OpenSSL a null key is "the key of last time", not an empty one.
  const char* key_bytes = key.empty() ? "" : key.data();
  CHECK(HMAC(EVP_sha256(), key_bytes, static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(message.data()), message.size(), out,
             &size) != nullptr);
  return {reinterpret_cast<const char*>(out), size};
}

bool equal_in_constant_time(ByteView a, ByteView b) {
  // The lengths are no secret: keys have a fixed one.
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace sluice
