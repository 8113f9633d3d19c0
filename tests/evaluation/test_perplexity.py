import math

import numpy as np
import pytest

from fedvpa.evaluation.perplexity import LanguageRow, TextScores, language_lines, perplexity_ratio

pytestmark = pytest.mark.unit


def scores(log_probs, tokens):
    return TextScores(np.array(log_probs), np.array(tokens))


def test_perplexity_is_over_all_tokens():
    assert scores([-2.0, -7.0], [2, 3]).perplexity == pytest.approx(math.exp(9 / 5))
    uniform = scores([-3 * math.log(7), -math.log(7)], [3, 1])
    assert uniform.perplexity == pytest.approx(7)


def test_the_ratio_is_that_of_the_perplexities_and_one_for_the_same_policy():
    policy, base = scores([-2.5, -7.5, -3.0], [2, 3, 5]), scores([-2.0, -7.0, -3.5], [2, 3, 5])
    ratio, ends = perplexity_ratio(policy, base)
    assert ratio == pytest.approx(policy.perplexity / base.perplexity)
    # By hand: lost (.5, .5, -.5), mean .05 a token; residuals .4, .35, -.75; t of 2 degrees.
    half = 4.302653 * math.sqrt((0.16 + 0.1225 + 0.5625) * 3 / 2) / 10
    assert ends == pytest.approx((ratio * math.exp(-half), ratio * math.exp(half)), rel=1e-5)
    assert perplexity_ratio(base, base) == (1.0, (1.0, 1.0))
    assert perplexity_ratio(scores([-1.0], [2]), scores([-1.5], [2]))[1] is None


def test_the_lines_name_each_latent():
    rows = [LanguageRow("", "helpful", (1.0,), 12.0, 1.2, (1.1, 1.3)), LanguageRow("", None, None, 10.0, 1.0, None)]
    first, second, third = language_lines(rows, 10.0, 1234, 56789)
    assert first == "perplexity of 1,234 texts, 56,789 tokens; base policy 10.00"
    assert second == "  helpful: 12.00, 1.200 [1.100, 1.300] times the base policy's"
    assert third == "  policy: 10.00, 1.000 times the base policy's"
