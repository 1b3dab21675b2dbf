// Recurrent layers, as ATen's own: one call for all steps.
//
// ONNX stacks the gates of a weight in another order than PyTorch does
// (iofc for ifgo, zrh for rzn), so the pieces change places; the parameters
// stay the initializers of the file.
#include "passes/import/onnx/ops/Support.h"

#include <string>

namespace inv::opt::lower {

namespace {

struct Layer {
  int64_t gates;
  std::vector<size_t> order; ///< the gate of ONNX's that is each of PyTorch's
  std::vector<std::string> activations; ///< of ONNX, by default
};

/// Direction `d` of operand `i`, its gates in PyTorch's order.
Value* weight(Lowering& b, const Layer& layer, Value* all, int64_t d) {
  Value* own = b.call("select", {all, 0, d});
  if (layer.gates == 1)
    return own;
  auto gates =
      b.unpack(b.call("chunk", {own, layer.gates, 0}), size_t(layer.gates));
  std::vector<Value*> ordered;
  for (size_t gate : layer.order)
    ordered.push_back(gates[gate]);
  return b.call("cat", {b.list(ordered), 0});
}

void checkForm(Lowering& b, const Layer& layer, int64_t directions) {
  if (b.hasAttribute("clip"))
    b.refuse("clips its gates");
  if (b.intAttribute("input_forget", 0) != 0)
    b.refuse("couples its input and forget gates");
  if (const auto* a = b.attribute("activations")) {
    size_t n = layer.activations.size();
    if (a->strings.size() != n * size_t(directions))
      b.refuse("has a wrong number of activations");
    for (size_t i = 0; i < a->strings.size(); ++i)
      if (a->strings[i] != layer.activations[i % n])
        b.refuse("has activations that PyTorch's layer has not");
  }
  if (b.has(7))
    b.refuse("has peepholes");
  if (b.has(4)) { // sequence_lens: nothing new where all are whole
    const at::Tensor* lengths = b.constant(4);
    int64_t steps = b.shape(0).at(b.intAttribute("layout", 0) ? 1 : 0);
    if (lengths == nullptr || steps < 0 ||
        !lengths->eq(steps).all().item().toBool())
      b.refuse("has sequences of different lengths");
  }
}

/// The layer `op` of one or two directions.
void recurrent(Lowering& b, const char* op, const Layer& layer, bool cell) {
  std::string direction = b.stringAttribute("direction", "forward");
  bool both = direction == "bidirectional", back = direction == "reverse";
  int64_t directions = both ? 2 : 1;
  bool batchFirst = b.intAttribute("layout", 0) != 0;
  checkForm(b, layer, directions);
  const auto& w = b.shape(2);
  int64_t hidden = w.size() == 3 ? w[2] : -1;
  if (hidden < 0)
    b.refuse("has a hidden size that only the run can tell");

  Value* x = b.in(0);
  if (batchFirst)
    x = b.call("transpose", {x, 0, 1});
  Number steps = b.sizeOf(x, 0), batch = b.sizeOf(x, 1);
  if (back)
    x = b.call("flip", {x, std::vector<int64_t>{0}});
  auto state = [&](size_t i) {
    if (b.has(i))
      return batchFirst ? b.call("transpose", {b.in(i), 0, 1}) : b.in(i);
    Numbers sizes{directions, batch, hidden};
    return b.call("new_zeros", {x, b.list(sizes)});
  };
  std::vector<Value*> states{state(5)};
  if (cell)
    states.push_back(state(6));
  std::vector<Value*> weights;
  for (int64_t d = 0; d < directions; ++d) {
    weights.push_back(weight(b, layer, b.in(1), d));
    weights.push_back(weight(b, layer, b.in(2), d));
    if (!b.has(3))
      continue;
    Value* biases = b.call("select", {b.in(3), 0, d});
    auto pair = b.unpack(b.call("chunk", {biases, 2, 0}), 2);
    for (Value* one : pair) {
      Value* own = b.call("unsqueeze", {one, 0}); // weight() takes it off
      weights.push_back(weight(b, layer, own, 0));
    }
  }
  Value* hx = cell ? b.list(states) : states[0];
  auto results = b.unpack(b.call(op, {x, hx, b.list(weights), b.has(3), 1, 0.0,
                                      false, both, false}),
                          cell ? 3 : 2);
  // [steps, batch, directions * hidden] to [steps, directions, batch, hidden]
  Value* y = results[0];
  if (back)
    y = b.call("flip", {y, std::vector<int64_t>{0}});
  y = b.call("reshape", {y, b.list(Numbers{steps, batch, directions, hidden})});
  y = batchFirst ? b.call("transpose", {y, 0, 1})
                 : b.call("transpose", {y, 1, 2});
  b.out(y);
  for (size_t i = 1; i < b.outputs.size(); ++i) {
    Value* last = results[i];
    b.out(batchFirst ? b.call("transpose", {last, 0, 1}) : last, i);
  }
}

} // namespace

void lstm(Lowering& b) {
  recurrent(b, "lstm", {4, {0, 2, 3, 1}, {"Sigmoid", "Tanh", "Tanh"}}, true);
}

void gru(Lowering& b) {
  if (b.intAttribute("linear_before_reset", 0) == 0)
    b.refuse("resets before the product (linear_before_reset=0)");
  recurrent(b, "gru", {3, {1, 0, 2}, {"Sigmoid", "Tanh"}}, false);
}

void rnn(Lowering& b) {
  const auto* a = b.attribute("activations");
  bool relu = a && !a->strings.empty() && a->strings[0] == "Relu";
  recurrent(b, relu ? "rnn_relu" : "rnn_tanh",
            {1, {0}, {relu ? "Relu" : "Tanh"}}, false);
}

} // namespace inv::opt::lower
