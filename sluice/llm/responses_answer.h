// Answers of the responses dialect: the response object, and the numbered events of a stream.
// Internal to the room; values, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/llm/dialect.h"

namespace sluice::llm::responses {

inline constexpr std::string_view kBetween = "__";  // a namespace and a tool's name

// The response object of a whole answer.
Bytes whole(const Envelope& envelope, const Answer& answer);

struct Item;
struct PartKind;
enum class Stage : uint8_t { kAdded, kDone };

// Writes events behind those that the envelope says were sent. One call of one writer.
class EventWriter {
 public:
  explicit EventWriter(const Envelope& envelope);

  // What is left of an answer, up to the stream's end.
  Bytes rest(const Answer& answer);
  // What `so_far`, its beginning, has beyond what was sent; `envelope`, the writer's own, then says
  // so.
  Bytes piece(Envelope& envelope, const Message& so_far);
  Bytes keep_alive();
  // Both events that the vendor sends: SDKs raise at the first, Codex ends by the second.
  Bytes failure(const Problem& problem);

 private:
  bool opened() const { return number_ > 0; }
  void open_if_new();
  template <class More>
  void event(std::string_view type, More more);
  template <class More>
  void item_event(std::string_view type, const Item& item, More more);
  void response(std::string_view type, std::string_view status, const Answer* answer = nullptr,
                const Problem* problem = nullptr);
  void item(const Item& item, const Choice& choice, Stage upto);
  void whole_item(std::string_view type, const Item& item, const Choice& choice, Stage stage);
  void part(const Item& item, const PartKind& kind, int64_t at, std::string_view text, size_t from,
            Stage upto);
  void content(const Item& item, const Message& message, size_t from, Stage upto);
  void arguments(const Item& item);

  const Envelope& envelope_;
  Bytes out_;
  int64_t number_ = 0;
};

}  // namespace sluice::llm::responses
