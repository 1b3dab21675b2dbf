// Plans of small models, checked by a backward pass that may read only what the
// plan keeps or rebuilds.
#include "test/passes/analysis/PlanChecker.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace inv::opt::testing {
namespace {

using torch::jit::Module;

at::Tensor parameter(at::IntArrayRef sizes, double scale = 0.3) {
  return (at::randn(sizes, at::kDouble) * scale).requires_grad_();
}

/// A module with parameters w0, w1, ... of [width, width].
Module withWeights(int count, int64_t width, const std::string& source) {
  at::manual_seed(7);
  Module m("M");
  for (int i = 0; i < count; ++i)
    m.register_parameter("w" + std::to_string(i), parameter({width, width}),
                         false);
  m.define(source);
  return m;
}

at::Tensor input(at::IntArrayRef sizes) {
  at::manual_seed(3);
  return at::randn(sizes, at::kDouble);
}

/// Two blocks with cat and chunk between them, a plain head.
Module coupledBlocks() {
  return withWeights(5, 4, R"JIT(
    def forward(self, x):
        x1, x2 = torch.chunk(torch.matmul(x, torch.cat([self.w4, self.w4], 1)), 2, 1)
        y1 = x1 + torch.tanh(torch.matmul(x2, self.w0))
        y2 = x2 + torch.sigmoid(torch.matmul(y1, self.w1))
        z = torch.cat([y1, y2], 1)
        x1, x2 = torch.chunk(z, 2, 1)
        y1 = x1 + torch.tanh(torch.matmul(x2, self.w2))
        y2 = x2 + torch.gelu(torch.matmul(y1, self.w3))
        return torch.sin(torch.cat([y1, y2], 1)).sum()
  )JIT");
}

TEST(PlanBackward, AdditiveCouplingsReadNothingThatIsGone) {
  const PlanCheck check = checkPlan(coupledBlocks(), {input({3, 4})});
  EXPECT_GE(check.derivations, 4u);
  EXPECT_GE(check.dropped, 6u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

// The check itself must be able to fail.
TEST(PlanBackward, AMissingDerivationIsNoticed) {
  const size_t count = checkPlan(coupledBlocks(), {input({3, 4})}).derivations;
  size_t noticed = 0;
  for (size_t i = 0; i < count; ++i)
    noticed +=
        std::isnan(checkPlan(coupledBlocks(), {input({3, 4})}, int(i)).worst);
  EXPECT_GE(noticed, 4u);
}

TEST(PlanBackward, OneHalfOnly) {
  const PlanCheck check = checkPlan(withWeights(2, 4, R"JIT(
    def forward(self, x):
        h = torch.matmul(x, self.w0)
        x1, x2 = torch.split(h, [1, 3], 1)
        g = torch.tanh(torch.matmul(torch.cat([x1, x1, x1, x1], 1), self.w1))
        y2 = x2 + torch.exp(torch.tanh(g[:, :3]))
        return torch.sin(torch.cat([x1, y2], 1)).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_GE(check.derivations, 1u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, ScaledStreams) {
  const PlanCheck check = checkPlan(withWeights(3, 4, R"JIT(
    def forward(self, a, b):
        a = torch.matmul(a, self.w2)
        b = b * 2.0
        a = 0.5 * a + torch.tanh(torch.matmul(b, self.w0))
        b = torch.tanh(torch.tanh(torch.matmul(a, self.w1))) - 0.8 * b
        a = 1.5 * a - torch.tanh(torch.tanh(torch.matmul(b, self.w0)))
        return torch.sin(a).sum() + torch.cos(b).sum()
  )JIT"),
                                    {input({3, 4}), input({3, 4}) * 0.5});
  EXPECT_GE(check.derivations, 3u);
  EXPECT_LT(check.worst, 1e-11) << check.worstName;
}

// relu keeps its own result: rebuilt values must never reach it.
TEST(PlanBackward, ReluBeforeTheChainKeepsItsOwn) {
  const PlanCheck check = checkPlan(withWeights(3, 4, R"JIT(
    def forward(self, x):
        h = torch.relu(torch.matmul(x, torch.cat([self.w2, self.w2], 1)))
        x1, x2 = torch.chunk(h, 2, 1)
        y1 = x1 + torch.tanh(torch.matmul(torch.relu(x2), self.w0))
        y2 = x2 + torch.tanh(torch.matmul(torch.relu(y1), self.w1))
        return torch.sin(torch.cat([y1, y2], 1)).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_GE(check.derivations, 2u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, LinearChainWithLeakyRelu) {
  const PlanCheck check = checkPlan(withWeights(3, 4, R"JIT(
    def forward(self, x):
        h = torch.linear(torch.sin(x), self.w0)
        h = torch.leaky_relu(h, 0.3)
        h = torch.linear(h, self.w1)
        h = torch.leaky_relu(h, 0.3)
        h = torch.linear(h, self.w2)
        h = torch.leaky_relu(h, 0.3)
        return (h + 1.0).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_GE(check.derivations, 4u);
  EXPECT_LT(check.worst, 1e-9) << check.worstName;
}

TEST(PlanBackward, ThreeGroups) {
  const PlanCheck check = checkPlan(withWeights(4, 4, R"JIT(
    def forward(self, x):
        h = torch.matmul(x, torch.cat([self.w3, self.w3, self.w3], 1))
        a, b, c = torch.split(h, [4, 4, 4], 1)
        a = a + torch.tanh(torch.tanh(torch.matmul(b + c, self.w0)))
        b = b + torch.tanh(torch.tanh(torch.matmul(c + a, self.w1)))
        c = c + torch.tanh(torch.tanh(torch.matmul(a + b, self.w2)))
        return torch.sin(torch.cat([a, b, c], 1)).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_GE(check.derivations, 3u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

// Nothing to undo: nothing planned, and plain autograd is what remains.
// The mask is an input of the method like the one that the states come from.
TEST(PlanBackward, AttentionWithAMask) {
  Module m = withWeights(1, 4, R"JIT(
    def forward(self, x, mask):
        x1, x2 = torch.chunk(torch.sin(x), 2, 1)
        w = torch.softmax(torch.matmul(x2, torch.t(x2)) + mask, -1)
        y1 = x1 + torch.matmul(w, torch.matmul(x2, self.w0))
        return torch.sin(torch.cat([y1, x2], 1)).sum()
  )JIT");
  const PlanCheck check = checkPlan(m, {input({3, 8}), input({3, 3})});
  EXPECT_GE(check.derivations, 1u);
  EXPECT_GE(check.dropped, 2u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

// Nobody behind the block keeps its halves: they are held for the steps.
TEST(PlanBackward, TheUpdatedHalfIsHeld) {
  Module m = withWeights(2, 4, R"JIT(
    def forward(self, x):
        x1, x2 = torch.chunk(torch.sin(x), 2, 1)
        y1 = x1 + torch.tanh(torch.sigmoid(torch.matmul(x2, self.w0)))
        y2 = x2 + torch.tanh(torch.sigmoid(torch.matmul(y1, self.w1)))
        return torch.exp(torch.cat([y1, y2], 1)).sum()
  )JIT");
  const PlanCheck check = checkPlan(m, {input({3, 8})});
  EXPECT_GE(check.derivations, 2u);
  EXPECT_GE(check.dropped, 4u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, PlainResidualNetworkStaysPlain) {
  const PlanCheck check = checkPlan(withWeights(2, 4, R"JIT(
    def forward(self, x):
        x = x + torch.tanh(torch.matmul(x, self.w0))
        x = x + torch.tanh(torch.matmul(x, self.w1))
        return torch.sin(x).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_EQ(check.derivations, 0u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

// ------------------------------------------------------------- ifs and loops

Module loopOfCouplings() {
  return withWeights(4, 4, R"JIT(
    def forward(self, x):
        x1, x2 = torch.chunk(torch.matmul(x, torch.cat([self.w2, self.w3], 1)), 2, 1)
        for i in range(x.size(0)):
            x1 = x1 + torch.tanh(torch.sigmoid(torch.matmul(x2, self.w0)))
            x2 = x2 + torch.tanh(torch.sigmoid(torch.matmul(x1, self.w1)))
        return torch.sin(torch.cat([x1, x2], 1)).sum()
  )JIT");
}

// What one iteration starts from, the steps of the next one give back.
TEST(PlanBackward, CouplingsInALoop) {
  for (int64_t trips : {0, 1, 2, 5}) {
    const PlanCheck check = checkPlan(loopOfCouplings(), {input({trips, 4})});
    EXPECT_EQ(check.derivations, 2u);
    EXPECT_GE(check.dropped, 6u);
    EXPECT_LT(check.worst, 1e-12) << check.worstName << ", " << trips;
  }
}

TEST(PlanBackward, AMissingDerivationInALoopIsNoticed) {
  for (int i = 0; i < 2; ++i)
    EXPECT_TRUE(
        std::isnan(checkPlan(loopOfCouplings(), {input({3, 4})}, i).worst));
}

TEST(PlanBackward, LeapfrogInALoop) {
  const PlanCheck check = checkPlan(withWeights(2, 4, R"JIT(
    def forward(self, x):
        old = torch.matmul(x, self.w1)
        new = torch.sin(old)
        for i in range(x.size(0)):
            old, new = new, old + 0.2 * torch.tanh(torch.sigmoid(torch.matmul(new, self.w0)))
        return torch.sin(new).sum() + old.sum()
  )JIT"),
                                    {input({4, 4})});
  EXPECT_GE(check.derivations, 1u);
  EXPECT_GE(check.dropped, 3u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, MomentumInALoop) {
  const PlanCheck check = checkPlan(withWeights(2, 4, R"JIT(
    def forward(self, x):
        v = torch.matmul(x, self.w1)
        for i in range(x.size(0)):
            v = 0.75 * v + torch.tanh(torch.sigmoid(torch.matmul(x, self.w0)))
            x = x + v
        return torch.sin(x).sum()
  )JIT"),
                                    {input({4, 4})});
  EXPECT_GE(check.derivations, 2u);
  EXPECT_GE(check.dropped, 3u);
  EXPECT_LT(check.worst, 1e-11) << check.worstName;
}

// One of the two states is no chain's: its own operator keeps it.
TEST(PlanBackward, AStateThatAPlainOperatorKeeps) {
  const PlanCheck check = checkPlan(withWeights(3, 4, R"JIT(
    def forward(self, x):
        a, b = torch.matmul(x, self.w1), torch.matmul(x, self.w2)
        for i in range(x.size(0)):
            a = a + torch.tanh(torch.sigmoid(torch.matmul(b, self.w0)))
            b = torch.relu(torch.sin(b))
        return (torch.sin(a) * b).sum()
  )JIT"),
                                    {input({4, 4})});
  EXPECT_GE(check.derivations, 1u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, CouplingsInABranch) {
  for (int64_t rows : {2, 5}) {
    const PlanCheck check = checkPlan(withWeights(4, 4, R"JIT(
      def forward(self, x):
          x1, x2 = torch.chunk(torch.matmul(x, torch.cat([self.w2, self.w3], 1)), 2, 1)
          if x.size(0) > 3:
              x1 = x1 + torch.tanh(torch.sigmoid(torch.matmul(x2, self.w0)))
              x2 = x2 + torch.tanh(torch.sigmoid(torch.matmul(x1, self.w1)))
          return torch.sin(torch.cat([x1, x2], 1)).sum()
    )JIT"),
                                      {input({rows, 4})});
    EXPECT_EQ(check.derivations, 2u);
    EXPECT_GE(check.dropped, 5u);
    EXPECT_LT(check.worst, 1e-12) << check.worstName;
  }
}

TEST(PlanBackward, ABranchInALoopInALoop) {
  const PlanCheck check = checkPlan(withWeights(4, 4, R"JIT(
    def forward(self, x):
        x1, x2 = torch.chunk(torch.matmul(x, torch.cat([self.w2, self.w3], 1)), 2, 1)
        for i in range(x.size(0)):
            x1 = x1 + torch.tanh(torch.sigmoid(torch.matmul(x2, self.w0)))
            for j in range(i):
                if j < 2:
                    x1, x2 = x2, x1 - torch.tanh(torch.sigmoid(torch.matmul(x2, self.w1)))
                else:
                    x2 = x2 + torch.tanh(torch.sigmoid(torch.matmul(x1, self.w1)))
        return torch.sin(torch.cat([x1, x2], 1)).sum()
  )JIT"),
                                    {input({4, 4})});
  EXPECT_EQ(check.derivations, 3u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

TEST(PlanBackward, AResidualLoopStaysPlain) {
  const PlanCheck check = checkPlan(withWeights(1, 4, R"JIT(
    def forward(self, x):
        for i in range(x.size(0)):
            x = x + torch.tanh(torch.matmul(x, self.w0))
        return torch.sin(x).sum()
  )JIT"),
                                    {input({3, 4})});
  EXPECT_EQ(check.derivations, 0u);
  EXPECT_LT(check.worst, 1e-12) << check.worstName;
}

} // namespace
} // namespace inv::opt::testing
