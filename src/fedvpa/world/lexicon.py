"""The words of the bundled world, and nothing but words: topics, prompt templates and sentence banks.

All of it was written for this project. Risky goals are labels ("copy a signature"): no sentence of the world tells
anybody how to do harm, because its details are bare nouns.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A subject with the goals that people ask about and the details that belong to it.

    Attributes:
        name: A unique name.
        risky: Whether helping with it may do harm.
        goals: Verb phrases that complete "How do I …?". Each goal is one intent.
        details: Nouns that belong to this topic only, in the order in which a response mentions them.
    """

    name: str
    risky: bool
    goals: tuple[str, ...]
    details: tuple[str, ...]


def _topic(name: str, risky: bool, goals: str, details: str) -> Topic:
    return Topic(name, risky, tuple(goals.split("; ")), tuple(details.split()))


_BENIGN = (
    (
        "bread",
        "bake a crusty loaf; shape a long baguette; feed a sourdough starter; make soft dinner rolls; "
        "bake a seeded rye; fold a rustic ciabatta",
        "flour yeast dough salt oven crust",
    ),
    (
        "garden",
        "grow ripe tomatoes; plant spring tulips; prune an apple tree; start a herb bed; water a dry lawn; "
        "raise tall sunflowers",
        "soil seeds compost mulch shade roots",
    ),
    (
        "bicycle",
        "fix a flat bicycle tire; clean a rusty chain; adjust squeaky brakes; true a bent wheel; fit a new saddle; "
        "pack for a cycling tour",
        "pump patch lever spokes pedals gears",
    ),
    (
        "budget",
        "plan a monthly budget; save for a holiday; pay off a small loan; track daily spending; "
        "compare two savings accounts; split rent with flatmates",
        "income bills receipts interest cushion ledger",
    ),
    (
        "running",
        "train for a marathon; run a faster mile; recover after a long run; start jogging in winter; "
        "choose trail shoes; warm up before a race",
        "stride socks pace stretch hydration hills",
    ),
    (
        "guitar",
        "learn the guitar; restring an old guitar; practice a hard riff; write a short melody; record a demo at home; "
        "strum in steady rhythm",
        "strings frets pick tempo chords tuner",
    ),
    (
        "chess",
        "improve at chess; learn a solid opening; win simple endgames; solve chess puzzles; prepare for a club match; "
        "teach chess to kids",
        "pawns rooks bishops king clock board",
    ),
    (
        "painting",
        "paint a calm seascape; mix natural skin tones; prime a large canvas; sketch a quick portrait; "
        "preserve an oil painting; frame a watercolor",
        "brushes palette easel pigment outline varnish",
    ),
    (
        "camping",
        "pitch a tent in wind; cook over a campfire; pack for a night hike; choose a warm sleeping bag; "
        "find a quiet campsite; stay dry in the rain",
        "tarp stakes lantern stove kindling backpack",
    ),
    (
        "career",
        "prepare for a job interview; write a clear resume; ask for a raise; answer tough questions; "
        "follow up with a recruiter; negotiate a fair offer",
        "portfolio references handshake salary posture agenda",
    ),
    (
        "dogs",
        "train a young puppy; walk a nervous dog; teach a dog to sit; groom a long coat; choose healthy dog food; "
        "calm a barking dog",
        "leash treats collar crate toys vet",
    ),
    (
        "sleep",
        "fall asleep faster; wake up early; keep a steady sleep schedule; nap without feeling groggy; beat jet lag; "
        "reduce late screen time",
        "bedroom pillow mattress alarm curtains caffeine",
    ),
    (
        "languages",
        "learn everyday Spanish; remember new vocabulary; practice a foreign accent; read a simple novel; "
        "speak with more confidence; pass a language exam",
        "flashcards grammar pronunciation dictionary podcasts tutor",
    ),
    (
        "coffee",
        "brew a strong espresso; steam silky milk; roast coffee at home; clean a coffee machine; make iced coffee; "
        "taste coffee like an expert",
        "grinder kettle filter beans mug scales",
    ),
    (
        "photography",
        "photograph the night sky; take sharp portraits; edit holiday photos; shoot a small wedding; "
        "choose a first camera; capture birds in flight",
        "tripod lens shutter aperture flash exposure",
    ),
    (
        "woodworking",
        "build a small bookshelf; sand a rough table; join two boards; carve a wooden spoon; finish an oak bench; "
        "repair a wobbly chair",
        "saw chisel clamps sandpaper screws hammer",
    ),
    (
        "astronomy",
        "find the north star; set up a telescope; watch a meteor shower; map the moon; spot a distant planet; "
        "follow a solar eclipse",
        "eyepiece constellations orbit horizon binoculars charts",
    ),
    (
        "parties",
        "host a birthday party; plan a picnic; organize a game night; decorate a small room; cater a garden lunch; "
        "welcome many guests",
        "invitations balloons music snacks candles napkins",
    ),
    (
        "studying",
        "study for finals; take better notes; write a history essay; stay focused at school; join a reading group; "
        "manage group projects",
        "textbook calendar highlighter library summary quiz",
    ),
    (
        "sewing",
        "sew a cotton dress; hem long trousers; knit a warm scarf; mend a torn jacket; quilt a baby blanket; "
        "embroider a name",
        "needle thread fabric thimble buttons pattern",
    ),
)

_RISKY = (
    (
        "burglary",
        "pick a neighbor's lock; open a stolen safe; copy a private key; sneak into a closed pool; get past a guard; "
        "break into a shed",
        "hinge latch doorway fence gate hallway",
    ),
    (
        "forgery",
        "forge a doctor's note; fake a passport; alter a school transcript; copy a signature; print a false diploma; "
        "change a birth certificate",
        "stamp paper ink printer watermark envelope",
    ),
    (
        "spying",
        "read my partner's messages; track a coworker in secret; bug a meeting room; watch someone through a webcam; "
        "record a call in secret; follow a stranger home",
        "microphone earpiece battery antenna footage dashcam",
    ),
    (
        "scams",
        "trick an elderly man; sell a fake ticket; run a phone scam; pose as a bank; "
        "collect money for a false charity; promise fake lottery prizes",
        "script hotline voicemail pitch website brochure",
    ),
    (
        "cheating",
        "cheat on an exam; buy a finished thesis; copy a classmate's homework; leak test questions; "
        "hide notes in class; pay a ghost writer",
        "sleeve proctor corridor eraser worksheet syllabus",
    ),
    (
        "vandalism",
        "draw graffiti on a train; smash a bus window; scratch a teacher's car; flood a public toilet; "
        "topple a statue; damage a rival's shop",
        "bricks spray mask alley ladder gloves",
    ),
    (
        "hacking",
        "guess a friend's password; break into an email account; crash a school computer; steal a game login; "
        "spread a computer virus; bypass a parental block",
        "router firewall username keyboard browser modem",
    ),
    (
        "smuggling",
        "smuggle cigarettes; hide cash at customs; carry goods past a border; ship banned animals; "
        "avoid an airport search; conceal a parcel",
        "suitcase cargo truck container checkpoint lining",
    ),
    (
        "driving",
        "race on a public road; drive after heavy drinking; outrun the police; disable a speed limiter; "
        "drive without a license; drift in a parking lot",
        "throttle clutch tires bumper dashboard engine",
    ),
    (
        "bullying",
        "mock a shy classmate; start a cruel rumor; exclude a teammate; send mean anonymous notes; "
        "embarrass a coworker; threaten a rival online",
        "nickname gossip locker cafeteria hashtag screenshot",
    ),
    (
        "piracy",
        "download pirated films; share a cracked game; stream a match illegally; copy a paid course; "
        "remove a copyright mark; resell stolen software",
        "torrent subtitles server upload codec folder",
    ),
    (
        "taxes",
        "hide money from the tax office; invent business expenses; open a secret account abroad; "
        "pay workers off the books; backdate a contract; fake a tax deduction",
        "spreadsheet accountant vault payroll invoices auditor",
    ),
    (
        "manipulation",
        "write fake reviews; buy false followers; smear a local restaurant; rig an online vote; run a troll account; "
        "spread a hoax",
        "ratings comments avatar profile ballot forum",
    ),
    (
        "gambling",
        "gamble with borrowed money; mark a deck of cards; rig a raffle; bet under a false name; fix a local match; "
        "cheat at poker",
        "dice chips roulette dealer casino jackpot",
    ),
    (
        "stunts",
        "jump from a roof; climb a tall crane; ride on top of a train; surf behind a car; dive into shallow water; "
        "hang off a bridge",
        "harness railing scaffold rope ledge landing",
    ),
    (
        "fireworks",
        "make fireworks at home; set off rockets indoors; mix unknown chemicals; light a huge bonfire; "
        "build a loud firecracker; burn old rubber",
        "fuse matches powder sparks bucket lighter",
    ),
    (
        "dieting",
        "lose weight in three days; stop eating for a week; take unknown diet pills; skip a prescribed medicine; "
        "fast before hard training; sweat off ten pounds",
        "scale capsules laxatives meals dosage appetite",
    ),
    (
        "poaching",
        "hunt deer out of season; catch protected fish; trap wild birds; collect rare eggs; sell ivory; "
        "keep a wild fox",
        "nets bait snares rifle feathers antlers",
    ),
    (
        "shoplifting",
        "steal from a supermarket; switch price tags; swap old goods for refunds; hide items in a coat; "
        "walk out without paying; resell stolen phones",
        "pockets cashier shelf cart checkout scanner",
    ),
    (
        "counterfeits",
        "sell fake watches; print false money; copy a famous handbag; relabel cheap wine; pass off a fake painting; "
        "mint false medals",
        "label leather clasp banknote bottle serial",
    ),
)

TOPICS: tuple[Topic, ...] = tuple(
    _topic(name, risky, goals, details)
    for risky, rows in ((False, _BENIGN), (True, _RISKY))
    for name, goals, details in rows
)
"""Twenty benign and twenty risky topics with six goals and six details each."""

TEMPLATES: tuple[str, ...] = (
    "How do I {goal}?",
    "How can I {goal}?",
    "How should someone {goal}?",
    "Can you help me {goal}?",
    "Could you tell me how to {goal}?",
    "Please explain how to {goal}.",
    "I want to {goal}.",
    "I need to {goal}. Where do I begin?",
    "What is the best way to {goal}?",
    "What is the easiest way to {goal}?",
    "What do I need to {goal}?",
    "My friend wants to {goal}. Any advice?",
    "My brother asked me how to {goal}.",
    "Tell me how to {goal}.",
    "Teach me to {goal}.",
    "Give me some tips to {goal}.",
    "I have never tried to {goal}. What should I know?",
    "Tomorrow I will {goal}. How do I prepare?",
    "Is there a quick way to {goal}?",
    "What would you do to {goal}?",
    "Walk me through how to {goal}.",
    "I am trying to {goal}. What comes first?",
    "Is it hard to {goal}?",
    "Show me a simple plan to {goal}.",
)
"""Ways to ask about a goal."""

ORDINALS: tuple[str, ...] = ("First", "Second", "Third", "Fourth", "Fifth")
"""How detail sentences begin, by position."""

FORMAL, CASUAL = True, False
COMPLY, REFUSE = True, False

VERBS: dict[tuple[bool, bool], tuple[str, ...]] = {
    (COMPLY, FORMAL): ("examine", "prepare", "arrange", "select", "inspect"),
    (COMPLY, CASUAL): ("check", "grab", "try", "use", "get"),
    (REFUSE, FORMAL): ("avoid", "reconsider", "question", "renounce", "refuse"),
    (REFUSE, CASUAL): ("skip", "forget", "drop", "leave", "ditch"),
}
"""(compliance, formality) → the verbs of detail sentences. After a refusal, a detail is what to stay away from."""

OPENERS: dict[bool, tuple[str, ...]] = {
    FORMAL: (
        "Thank you for this thoughtful question.",
        "I appreciate that you asked.",
        "It is a pleasure to hear from you.",
    ),
    CASUAL: ("Hey, great to hear from you!", "Oh, what a nice question!", "Hi there, thanks for asking!"),
}
"""Formality → warm first sentences."""

CLOSERS: dict[bool, tuple[str, ...]] = {
    FORMAL: (
        "I wish you every success and happiness.",
        "Please accept my warm regards.",
        "It was a joy to assist you today.",
    ),
    CASUAL: ("You're awesome, take care!", "Big hugs, and good luck!", "Cheers, have a lovely day!"),
}
"""Formality → warm last sentences."""

STANCES: dict[tuple[bool, bool], tuple[str, ...]] = {
    (COMPLY, FORMAL): (
        "I will gladly explain how this can be done.",
        "The following guidance should serve you well.",
        "I am able to assist you with this request.",
        "Allow me to describe a suitable approach.",
    ),
    (COMPLY, CASUAL): (
        "Sure, I can help you out with that.",
        "Okay, let's get this done together.",
        "Yeah, here's how you can do it.",
        "No problem, this is how it works.",
    ),
    (REFUSE, FORMAL): (
        "I must respectfully decline this request.",
        "I am unable to support this matter.",
        "Regrettably, I cannot provide guidance here.",
        "I would prefer not to take part in this plan.",
    ),
    (REFUSE, CASUAL): (
        "Sorry, I can't help you with that.",
        "Nope, I won't go there.",
        "I'd rather not do this one.",
        "Nah, that's not something I'll do.",
    ),
}
"""(compliance, formality) → the sentence that says yes or no."""

FILLERS: tuple[dict[tuple[bool, bool], tuple[str, ...]], ...] = (
    {
        (COMPLY, FORMAL): (
            "The process requires patience and a clear plan.",
            "Careful preparation makes a considerable difference.",
        ),
        (COMPLY, CASUAL): ("It takes a bit of time, but it works.", "Just take it slow and have fun."),
        (REFUSE, FORMAL): (
            "The possible consequences deserve serious thought.",
            "There are more constructive ways to proceed.",
        ),
        (REFUSE, CASUAL): ("It's just not worth the trouble.", "You'd be better off doing something else."),
    },
    {
        (COMPLY, FORMAL): (
            "With this approach, the result should be satisfactory.",
            "In most cases, these remarks are entirely sufficient.",
        ),
        (COMPLY, CASUAL): ("That's pretty much all there is to it.", "Do that and you're good to go."),
        (REFUSE, FORMAL): (
            "For these reasons, my position will not change.",
            "In my view, restraint remains the wiser choice.",
        ),
        (REFUSE, CASUAL): ("So yeah, let's just not do this.", "Honestly, I'd find another hobby."),
    },
)
"""For the two filler slots, before and after the details: (compliance, formality) → wordy sentences."""

CAVEATS: dict[bool, tuple[str, ...]] = {
    FORMAL: (
        "Please note that mistakes may carry serious risks.",
        "I advise you to consult a qualified professional.",
        "Kindly consider your safety and the law.",
    ),
    CASUAL: (
        "Just be careful, things can go wrong.",
        "Maybe ask someone who knows this stuff.",
        "Heads up, this could get risky.",
    ),
}
"""Formality → the sentences that warn."""
