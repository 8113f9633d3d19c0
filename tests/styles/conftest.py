"""A dozen answers to four prompts, which differ in what the shipped populations weigh."""

import pytest

from fedvpa.styles.standard import Standard

SAMPLES = [
    [
        "You can do it. It's easy.",
        "It may be possible, although the preparation usually requires additional information about the situation.",
        "Let us see. First, the arrangement of the room is important.\nThen look at your options, because they differ.",
    ],
    [
        "I'm glad you asked! You should wash it and let it dry.",
        "The description of the procedure is perhaps somewhat long, but it is generally an effective solution.",
        "Take the pan, the oil and the salt. Then we fry it until it is brown, and you eat it.",
    ],
    [
        "No, and I don't think that you should.",
        "However, there is a possibility that the government could consider the application in the near future.",
        "It is in the north of the country.\nYou could take a train, which is often cheap, or a bus.",
    ],
    [
        "That's a lovely idea, and I hope you have fun.",
        "This is because the temperature is likely to increase, while the atmosphere is typically less active.",
        "My advice is to wait. We have seen it before, and it was over soon.",
    ],
]


@pytest.fixture(scope="session")
def samples() -> list[list[str]]:
    return SAMPLES


@pytest.fixture(scope="session")
def standard() -> Standard:
    return Standard.of(SAMPLES)
