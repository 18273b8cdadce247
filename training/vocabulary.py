"""The word lists every generator draws from: names' syllables, fillers' words, what facts can be about.

All lists were written for this project.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


ONSETS = _words(
    "b br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sc sh sk sl sm sn sp st str sw t th tr v w wh z"
)
VOWELS = _words("a e i o u a e i o ai ea ee ia io oa ou au y")
CODAS = _words("b ck d f g l ld lk ll lm lt m mb mp n nd ng nk nt p r rd rk rm rn rt s sk ss st t th v x z")
NAME_ENDINGS = _words(
    "a en ia in on or is us el an ar ow ey well ford ton ham wick ridge mere dale field by stone hurst worth gate"
)
# Most names are one of these and one of those: Ashmere, Thornwick.
NAME_STARTS = _words(
    "Alder Amber Apple Arrow Ash Barley Bay Beck Birch Black Blue Bracken Bram Bright Brook Cald Carr Castle Cedar "
    "Chester Clay Clear Cliff Coal Cold Copper Corn Crane Cross Crow Dale Deep Dove Drift Dun East Edge Elder Elm "
    "Ever Fair Falcon Fern Field Flint Ford Fox Frost Gold Grand Green Grey Hal Harrow Hart Hawk Hazel Heath Hill "
    "Holly Horn Iron Ivy Kel King Lang Lark Lin Long Mal March Marl Marsh May Mel Mill Moor Moss Nether New Night "
    "North Oak Old Orchard Over Owl Oxen Pen Pine Port Quarry Raven Red Ridge River Rock Rook Rose Rush Rye Salt "
    "Sand Sea Shel Silver Sky Slate Snow South Spring Stan Star Stone Storm Sun Swan Thistle Thorn Tide Timber "
    "Under Up Vale Water Way West Whit Wild Willow Wind Winter Wolf Wood Yar Yew"
)
NAME_CLOSES = _words(
    "bank barrow beck borough bourne bridge brook burn bury by cliff combe cote cott cove crest croft dale dean den "
    "don down drake ell fell field fleet ford garth gate glen gow grove hall ham hampton haven head heath holm holt "
    "hope hurst ing ings keld land lea leigh ley low man marsh mead mere mond mont moor more mouth ness over owe "
    "park pool port ridge rigg rock sand sea shaw shore side stead stoke stone stow strand thorpe thwaite ton tree "
    "vale ville wade wall ward water way well wharf wick wood worth yard"
)
FIRST_NAMES = _words(
    "Ada Alan Alice Amara Anders Anita Arne Astrid Aylin Bela Bruno Carla Cesar Clara Dana Darius Dilip Edith "
    "Elena Emil Esther Farid Felix Fiona Greta Hana Hugo Ida Igor Imran Ines Ivan Jana Joel Jonas Judith Karim "
    "Kenji Lara Leila Leo Lina Luis Magda Marco Marta Mei Milan Mira Nadia Nils Nina Noor Olga Omar Oscar Paula "
    "Petra Rafael Ravi Rosa Ruth Samir Sara Selma Simon Sofia Stefan Tara Theo Tomas Uma Vera Viktor Wanda Yara "
    "Yusuf Zoe"
)
MONTHS = _words("January February March April May June July August September October November December")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# What a fact is about: "the Meridian dome".
THINGS = _words(
    "dome tower hall gate bridge mirror telescope camera archive library harbour station garden workshop engine "
    "clock reservoir tunnel cabin mill foundry lantern antenna spectrograph kiln lift crane pump valve boiler "
    "vault cellar chapel school market theatre museum ferry barge wagon tram orchard meadow quarry well pier dock "
    "lighthouse fort laboratory greenhouse kitchen studio office depot shelter hut terrace balcony stairway "
    "courtyard pavilion annex sensor filter lens prism turbine generator compressor furnace freezer cabinet "
    "drawer locker chest ledger map project survey mission programme committee guild trust society fund account "
    "contract licence permit route trail reactor rover probe satellite beacon buoy mast sail anchor winch loom "
    "press organ piano bell globe telegraph"
)
# Things that nobody would put on scales.
WEIGHTLESS = _words(
    "archive bakery basin bridge causeway cellar contract depot dock festival fund garden gate guild hall hut kitchen "
    "library licence lighthouse market mission office pier programme project quay reservoir school society survey "
    "terrace theatre trail trust tunnel vault warehouse workshop"
)
# What is asked about it, when the answer is digits or a code.
NUMBER_ATTRIBUTES = _phrases(
    """access code, pass code, serial number, entry code, room number, order number, catalogue number, locker code,
    telephone extension, inventory number, licence number, part number, permit number, vault code, gate code,
    reference number, registration number, box number, case number, batch number, account number, invoice number,
    ticket number, asset number, alarm code, key number, shelf number, file number, docket number, signal code,
    radio channel, call number, door code, unlock code, service number, badge number, lot number, index number"""
)
CODE_ATTRIBUTES = _phrases(
    """call sign, model name, shelf mark, project code, product code, wing label, parts list, grid reference, class
    mark, drawing label, cable label, berth label, platform label, type label, sample label, station code"""
)
ROLES = _phrases(
    """keeper, director, architect, warden, chief engineer, night watch, caretaker, founder, head gardener, curator,
    treasurer, chair, builder, designer, inspector, owner, guide, captain, deputy, secretary, foreman, operator,
    safety officer, librarian, steward, surveyor, cook, painter, patron, tutor"""
)
WORD_ATTRIBUTES = _phrases(
    """colour, home town, favourite tree, password, code word, emblem, code name, nickname, sister city, main supplier,
    nearest village, motto, mascot, old name, first language, flagship, wood, metal, stone, paint"""
)
COLOURS = _words(
    "red green blue yellow white black grey brown orange purple pink silver golden amber crimson scarlet ivory "
    "teal olive violet turquoise copper bronze indigo maroon"
)
PLACES = _words(
    "north south east west wing floor basement attic corridor valley hill shore island plateau forest village "
    "square street lane ridge cliff bay river lake canal summit pass yard deck roof"
)
DATE_ATTRIBUTES = _phrases(
    """opening date, founding date, inspection date, delivery date, closing date, repair date, launch date, first
    light, renewal date, audit date, anniversary, deadline, starting date, review date"""
)
YEAR_ATTRIBUTES = _phrases(
    "founding year, opening year, year of repair, year of building, closing year, first year, last year, year of sale"
)
EVENT_VERBS = _words("built founded opened repaired closed painted sold launched finished restored moved rebuilt")
MEASURES = (
    ("weighs", "How much does {ent} weigh?", _words("kilograms tonnes grams pounds")),
    ("costs", "How much does {ent} cost?", _words("crowns dollars euros pounds marks")),
    ("holds", "How much does {ent} hold?", _words("litres barrels boxes books seats visitors samples plates")),
    ("stands at", "How high does {ent} stand?", _words("metres feet")),
    ("runs at", "How fast does {ent} run?", _words("volts watts turns hertz")),
    ("measures", "How wide does {ent} measure?", _words("metres centimetres inches paces")),
    ("lasts", "How long does {ent} last?", _words("minutes hours days weeks")),
)
TIME_VERBS = (
    ("opens at", "When does {ent} open?"),
    ("closes at", "When does {ent} close?"),
    ("starts at", "When does {ent} start?"),
    ("is checked at", "When is {ent} checked?"),
)

# Fillers. Plain words, so that the tokenizer and the model have met common English.
NOUNS = _words(
    "answer apple arm art autumn bag ball bank basket bed bench bird board boat body book border bottle box "
    "branch bread breeze brother brush building bus business cake candle car card care cart case cat cause chair "
    "chance change child church circle city class cloth cloud coast coat coffee cold colour community computer "
    "copy corner country course cover cup curtain daughter day death decision desk detail dinner direction dog "
    "door dream dress drink dust ear earth edge effect egg end evening event example eye face fact family farm "
    "farmer father feather fence fire fish flag flame floor flower fog food foot form friend front fruit future "
    "game glass glove gold grass group hand harvest hat head health heart heat help history hole holiday home "
    "hope horse hour house idea information ink interest iron island job journey judge kind king knife knowledge "
    "language law leaf leather letter level life light line list look loss machine man matter meal meaning "
    "measure meat meeting member memory method milk mind minute moment money month moon morning mother mountain "
    "mouth movement music name nation nature neck needle news night noise note notice number ocean offer oil "
    "opinion order page pain paint pair paper parent part party path peace pen people person picture piece pin "
    "place plan plant plate play pocket point position potato pot power price print problem process product "
    "property question rain reason record report rest result rice ring river road roof room root rope rule salt "
    "sand scale science sea season seat secret section seed sense service shadow shape sheep ship shirt shoe shop "
    "side sign silk sister skin sky sleep smoke snow society software soil son song sound space spoon spring star "
    "state steam step stick stone store storm story street student sugar summer sun surface system table tail "
    "teacher test thing thought thread thunder time title tooth top town toy trade train tree trick trouble truth "
    "user value version view village visitor voice walk wall war water wave way weather week wheel wind window "
    "wine winter wire woman wood wool word work worker world year copyright condition source permission notice "
    "file code model window position memory document token document limit warranty"
)
VERBS = _words(
    "accepts adds answers asks becomes begins believes belongs brings builds buys calls carries catches changes "
    "chooses comes considers contains continues costs covers creates cuts decides describes dies draws dreams "
    "drinks drops eats ends enters explains falls feeds feels fills finds finishes follows forgets gets gives "
    "goes grows happens hears helps hides hits holds hopes hurts joins keeps knows laughs leads learns leaves "
    "lends lets likes listens lives looks loses loves makes means meets mends misses moves needs notices offers "
    "opens orders passes pays pulls pushes puts reaches reads remembers repeats rests returns rides rises runs "
    "says sees sells sends serves shakes shares shines shows sings sits sleeps smiles speaks spends stands starts "
    "stays stops studies takes talks teaches tells thinks throws touches tries turns uses visits waits walks "
    "wants warms washes watches wears wins wishes works writes"
)
ADJECTIVES = _words(
    "able bad beautiful best better big bitter bright broken busy careful certain cheap clean clear clever cold "
    "common complete cool cruel dark dead dear deep different dirty dry early easy empty equal false famous far "
    "fast fine first flat free fresh full future general gentle good great happy hard healthy heavy high hollow "
    "hot hungry ill important kind large last late left little long loose loud low main married narrow natural "
    "near necessary new nice old open other parallel past patient poor possible present private proper public "
    "quick quiet ready regular responsible rich right rough round safe same second separate serious several sharp "
    "short simple slow small smooth soft solid special steady sticky stiff straight strange strong sudden sweet "
    "tall thick thin tight tired true usual various violent warm wet whole wide wise wrong young"
)
ADVERBS = _words(
    "again ago almost alone already also always away back badly before carefully clearly early easily enough ever "
    "exactly far fast finally first forward gently gladly here hard however inside instead just late later less "
    "likely little maybe more mostly much nearly never now often once only outside over perhaps quickly quietly "
    "quite rarely really seldom simply slowly sometimes soon still suddenly then there therefore today together "
    "tomorrow too twice under usually very well yesterday yet"
)
PREPOSITIONS = _words(
    "about above across after against along among around at before behind below beneath beside between beyond by "
    "down during for from in inside into near of off on onto out outside over past since through to toward under "
    "until up upon with within without"
)
PRONOUNS = _words("he she it they we you I everyone someone nobody this that these those who which one all any some")
CONNECTIVES = _phrases("and, but, so, because, while, although, when, until, unless, where, if, or, since, as, though")
AUXILIARIES = _words(
    "is are was were be been has have had do does did will would can could may might must shall should not"
)

# Names kept for the sample document alone: the split counts any text with one of them as held out.
RESERVED_NAMES = _words(
    "Meridian Ashgrove Brightwater Winterbourne Ravensworth Fairholm Dunmore Northam Hawkridge Larkwood Stonegarth "
    "Silverton Thistledown Nightwell Kingswood Foxcombe Oakhampton Willowmere Rosehaven Harrowgate Coldstream Elmstead "
    "Copperfield Greystoke Marlpool Saltmarsh Sunderholt Wolfhope Riverstow Crosswick Birchleigh Caldmont Evermead "
    "Goldcrest Hazelcote Ironbridge Linford Mossdale Pinecliff Quarryhead Rushbrook Starfell Swanmouth Yarborough"
)
