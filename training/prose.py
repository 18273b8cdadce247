"""The prose of the two generated books: sentences with slots, and two settings to fill them from.

None of it is ever trained on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What a book is about: its title, its chapters' titles and the kinds of thing they describe, its own words."""

    title: str
    subtitle: str
    preface: tuple[str, ...]
    chapters: tuple[tuple[str, tuple[str, ...]], ...]
    words: dict[str, tuple[str, ...]]


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


OBSERVATORY = Setting(
    title="The Handbook of the Highmere Observatory",
    subtitle="For staff, guests and night visitors",
    preface=(
        (
            "This handbook describes an observatory that does not exist. Its hill, its domes, its people and its "
            "numbers were invented, so that a reader can ask about them and be certain that the answer came from "
            "these pages."
        ),
        (
            "Each chapter takes up one part of the site. The sections are short, and each says where a thing stands, "
            "who looks after it and what has to be known about it. Nothing here needs to be learnt by heart; that is "
            "what a handbook is for."
        ),
    ),
    chapters=(
        ("The Domes", ("dome", "dome", "dome", "dome")),
        ("The Telescopes", ("telescope", "telescope", "telescope", "camera")),
        ("Instruments", ("spectrograph", "filter", "sensor", "clock")),
        ("The Workshops", ("workshop", "lathe", "kiln", "crane")),
        ("The Library and the Archive", ("archive", "library", "cabinet", "ledger")),
        ("Houses and Gardens", ("hut", "garden", "kitchen", "terrace")),
        ("Roads, Gates and Bridges", ("gate", "bridge", "trail", "tunnel")),
        ("Water, Heat and Power", ("pump", "boiler", "generator", "reservoir")),
        ("Surveys and Missions", ("survey", "mission", "programme", "project")),
        ("Guests and Ceremonies", ("hall", "theatre", "bell", "festival")),
    ),
    words={
        "place": _list(
            "the hill, the ridge, the plateau, the valley below, the southern slope, the old road, the meadow"
        ),
        "group": _list(
            "the night crew, the day shift, the observers, the guests, the apprentices, the maintenance team"
        ),
        "thing": _list(
            "a lamp, a blanket, a thermos, a notebook, a red torch, a star chart, a spare fuse, a pair of gloves"
        ),
        "work": _list(
            "observing, cleaning the optics, reading the gauges, sorting plates, calibration, the evening round"
        ),
        "sight": _list(
            "the winter stars, a passing comet, the lights of the village, the rising moon, a bank of low fog"
        ),
        "trouble": _list(
            "dew on the glass, a loose cable, a sticking hatch, a tired motor, mice in the wall, a draught"
        ),
    },
)

HARBOUR = Setting(
    title="A Guide to the Works of the Harbour Trust",
    subtitle="Held-out evaluation document",
    preface=(
        (
            "This guide describes a harbour that does not exist. It was generated to measure whether a model finds "
            "what stands in a long document, and none of its names, numbers or sentences was used in training."
        ),
    ),
    chapters=(
        ("Quays and Docks", ("dock", "pier", "quay", "basin")),
        ("Boats and Ferries", ("ferry", "barge", "tug", "schooner")),
        ("Warehouses", ("depot", "warehouse", "cellar", "vault")),
        ("Lights and Signals", ("lighthouse", "beacon", "lantern", "foghorn")),
        ("Cranes and Machines", ("crane", "winch", "pump", "engine")),
        ("The Customs House", ("office", "archive", "counter", "ledger")),
        ("Markets and Kitchens", ("market", "kitchen", "bakery", "stall")),
        ("Schools and Clubs", ("school", "guild", "society", "library")),
        ("Gates and Bridges", ("bridge", "gate", "lock", "causeway")),
        ("Funds and Contracts", ("fund", "contract", "licence", "trust")),
    ),
    words={
        "place": _list(
            "the quay, the breakwater, the old town, the far shore, the mud flats, the river mouth, the slipway"
        ),
        "group": _list("the pilots, the dockers, the clerks, the sailors, the traders, the harbour watch"),
        "thing": _list("a rope, an oilskin, a lantern, a tide table, a boat hook, a tin of grease, a whistle, a chart"),
        "work": _list("loading, sounding the channel, mending nets, checking the seals, painting, the morning round"),
        "sight": _list(
            "the returning fleet, a line of gulls, the lamps across the bay, the spring tide, a low grey squall"
        ),
        "trouble": _list(
            "a frayed hawser, rust on the hinges, a blocked drain, weed on the steps, a slipping belt, a leak"
        ),
    },
)

COMMON = {
    "weather": _list(
        "fine weather, heavy rain, a north wind, thick mist, frost, a dry spell, a thunderstorm, early snow"
    ),
    "hour": _list(
        "before sunrise, at noon, towards evening, after supper, in the small hours, at first light, after dark"
    ),
    "count": _list("two, three, four, five, six, seven, a dozen, twenty"),
    "mood": _list("quiet, cheerful, patient, careful, proud, curious, stubborn, good-humoured"),
    "material": _list("oak, brass, slate, cast iron, whitewashed brick, copper, tarred canvas, granite"),
    "part": _list("the hinge, the handle, the upper step, the frame, the outer cover, the rear wall, the base plate"),
    "habit": _list("a short walk, a pot of tea, a word with the neighbours, a careful look at the sky, an early night"),
}

# {ent} is what the section describes, as it reads inside a sentence; {Ent} opens one.
SENTENCES = (
    "{Ent} was never meant to be beautiful, yet people stop to look at it.",
    "Most visitors meet {ent} for the first time {hour}.",
    "In {weather} the way there takes a little longer.",
    "From its door one can see {sight}.",
    "The walls are of {material}, and they have aged well.",
    "{group} use it every week and speak of it with affection.",
    "Bring {thing}, for there is none to borrow.",
    "It was {group} who asked for it, and who carried the first stones.",
    "Old photographs show it without {part}, which came later.",
    "Anyone who works here learns to listen for {trouble}.",
    "The usual remedy for {trouble} is patience and a dry cloth.",
    "A bench of {material} stands outside for those who wait.",
    "On clear days the path leads on to {place}.",
    "Nobody remembers why {part} was painted green.",
    "During {weather} the doors stay shut and the lamps are lit early.",
    "{group} keep {thing} on a hook by the entrance.",
    "There is room for {count} people, or for more if they are friends.",
    "The floor is swept {hour}, and everybody takes a turn.",
    "Children are welcome as long as they leave {part} alone.",
    "A plan drawn in pencil hangs behind the door.",
    "What cannot be mended is kept for its parts.",
    "Repairs are carried out in the order in which they are reported.",
    "The smell of {material} and warm dust is hard to forget.",
    "Those who come for {work} should sign the book first.",
    "{work} is best done {hour}, when the place is empty.",
    "The people here are {mood}, and they expect the same of others.",
    "A visitor once called it the most {mood} corner of the whole site.",
    "In the early years {group} slept here when {weather} closed the road.",
    "The view towards {place} has hardly changed since then.",
    "Keep {thing} at hand, because the light fails without warning.",
    "Every spring {part} is taken off, cleaned and put back.",
    "No food may be left inside, since it draws animals from {place}.",
    "A narrow stair of {material} leads up to the upper level.",
    "The sound carries far, so please speak softly {hour}.",
    "It took {count} attempts to get {part} to fit.",
    "If {trouble} should appear, tell someone before you touch anything.",
    "The older members begin each visit with {habit}.",
    "Many a long discussion has ended here with {habit}.",
    "The surroundings are at their best in {weather}.",
    "A sign in plain letters explains what to do and what to leave.",
    "{Ent} has outlived {count} plans to replace it.",
    "Whoever looks after {ent} needs a steady hand and a {mood} mind.",
    "The first version stood closer to {place} and was lost in {weather}.",
    "Spare parts are stored under the stairs, wrapped in cloth.",
    "On the last evening of the season {group} meet here for {habit}.",
    "There are better ones elsewhere, but none that is so well loved.",
    "The original drawings mention {material}, though the builders used what they had.",
    "Sooner or later everyone asks about {part}.",
    "It is the only spot from which {sight} can be seen at its full width.",
    "Please return {thing} to its place when you are done.",
    "{group} still argue about who had the idea.",
    "A small window lets in enough light for {work}.",
    "The cost was shared among {group} and the neighbours.",
    "The lock turns the wrong way, and newcomers always try it twice.",
    "After {weather} somebody walks round it once to look for damage.",
    "{count} pictures of it hang in the corridor, none of them straight.",
    "It is warm in winter and cool in summer, which cannot be said of much else here.",
    "The ground around it is soft, so carts must keep to the boards.",
    "Guides like to end their tour here, with {sight} behind them.",
    "A good deal of {work} goes on here that nobody ever sees.",
    "Under the eaves there is a nest that nobody has the heart to remove.",
    "Where the paint has worn off, {material} shows through.",
    "The rules are short: be {mood}, be on time, and shut the door.",
    "New staff spend their first week here, mostly with {work}.",
    "A letter of thanks from {group} is framed on the wall.",
    "It was closed for {count} months once, and was sorely missed.",
    "The draught from {place} makes the lamps flicker.",
    "If you are early, wait outside and enjoy {sight}.",
    "Notes of every visit are kept in a drawer, in no particular order.",
    "The neighbours set their day by it, or say so.",
)
