#include "transport.h"

namespace flashmask {
namespace distributed {

namespace {

const char* NameOf(Collective::Kind kind) {
  switch (kind) {
    case Collective::kAllReduce:
      return "allReduce";
    case Collective::kAllGather:
      return "allGather";
    case Collective::kReduceScatter:
      return "reduceScatter";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kAllToAll:
      return "allToAll";
  }
  return "";
}

std::string List(const std::vector<int64_t>& numbers, size_t from = 0) {
  std::string text;
  for (size_t i = from; i < numbers.size(); i++) text += (i == from ? "" : ",") + std::to_string(numbers[i]);
  return "[" + text + "]";
}

}  // namespace

int64_t Collective::RowElements() const {
  int64_t elements = 1;
  for (size_t i = 1; i < shape.size(); i++) elements *= shape[i];
  return elements;
}

int64_t Collective::Elements() const { return shape.empty() ? 1 : shape[0] * RowElements(); }

std::string Collective::Json() const {
  std::string json = "{\"kind\":\"" + std::string(NameOf(kind)) + "\",\"shape\":" + List(shape);
  if (kind == kAllReduce) json += std::string(",\"reduction\":\"") + (max ? "max" : "sum") + "\"";
  if (kind == kBroadcast) json += ",\"root\":" + std::to_string(root);
  if (kind == kAllToAll) json += ",\"sends\":" + List(sends) + ",\"receives\":" + List(receives);
  return json + "}";
}

std::string Collective::Agreed() const {
  return kind == kAllToAll ? std::string(NameOf(kind)) + List(shape, 1) : Json();
}

}  // namespace distributed
}  // namespace flashmask
