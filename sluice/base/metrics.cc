#include "sluice/base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace sluice {

struct Metrics::State {
  // Same name, same help: prometheus-cpp then returns the same family, and for the same labels the
  // same metric.
  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

Metrics::Counter Metrics::counter(const std::string& name, const std::string& help,
                                  const MetricLabels& labels) {
  auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(state_->registry);
  return Counter(&family.Add(labels));
}

Metrics::Gauge Metrics::gauge(const std::string& name, const std::string& help,
                              const MetricLabels& labels) {
  auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(state_->registry);
  return Gauge(&family.Add(labels));
}

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

void Metrics::Counter::add(double n) {
  static_cast<prometheus::Counter*>(impl_)->Increment(n);
}
void Metrics::Gauge::set(double value) {
  static_cast<prometheus::Gauge*>(impl_)->Set(value);
}
void Metrics::Gauge::add(double n) {
  static_cast<prometheus::Gauge*>(impl_)->Increment(n);
}

}  // namespace sluice
