"""Polarity: English words by which news praises or blames, written for this project.

A word counts by its stem-like beginning (`prais` for praise, praised, praising) or as a whole. A negation up to three
words before it turns it round (Das and Chen 2007 mark negation in this way).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

PRAISE = tuple(
    "accomplish acclaim achiev admir advanc advantag affordab applau appreciat award benefi best better blessing bold "
    "boon boost brave breakthrough bright brilliant calm capable celebrat champion charm cheer clarity clean cleaner "
    "cleverly cohesive comfort commend competent confidence constructive courag credible cured cutting dedicat "
    "defend delight delicious deliver deserve devoted dignity diligen disciplined eager earned ease easier effective "
    "efficien elegan empower enabl encourag endors endur energis enhanc enjoy excel excit exemplary expert fair "
    "faithful fast faster favor favour feat fine flawless flourish forward free fresh friendly fulfil gain generous "
    "gentle genuine gift glad good grace grateful great grew growth guarantee hail happier happy healthier heal help "
    "hero heroic honest honour hope humane ideal impress improv incredible ingenious innovat inspir integrity "
    "intelligent invaluable joy just keen kept kind laud liberat lifeline liked love loyal magnific marvel master "
    "modern moral neat noble optimis outstanding paid partner patient patriot peaceful perfect pleas popular positive "
    "practical prais precise pride professional profit progress promis prosper protect proud prove proven prudent "
    "quick quiet recover reduc reform reliab relief reliev remarkable repaid repair rescu resilien resolv respect "
    "respons restor reward rightly rigor robust sacrific safe satisf save saved saving secure sensible shelter shield "
    "skilful skill smart smooth solid solv sound spared stabil steadfast steady strength strong stunning succe "
    "superior support sustain talent thank thoughtful thriv tireless treasure triumph trust truth unite upgrade "
    "useful valiant valuable vibran victor victory vindicat vital warm welcom well win winner winning wisdom wise won "
    "wonder work worked worth".split()
)
BLAME = tuple(
    "abandon abrupt absurd abus accus aggress alarm anger angry appall arrog asham assault atroc attack awful backfir "
    "backlash bad bankrupt ban betray bias bitter blame blind block bloat blunder botch breach brib broke broken "
    "brutal bulli bully burden bury calam careless casualt catastroph chaos chaotic cheat clumsy coerc collaps "
    "complain complic condemn conceal confus contempt corrupt costly coward cramped crash crime criminal crippl cris "
    "critici cruel curse cynical damag danger dead deadly death debt deceiv deceit decept defeat defect defi delay "
    "denied denounc depriv desert despair desperat destr deteriorat dirty disappoint disast disgrac disgust dishonest "
    "dismal dismay disput disrupt distrust dodg doom doubt drain drawback dread dubious dull empty endanger enrag "
    "erod error evad evil excus expens exploit expose extort extrem fail failed failure fake fals farce fault fear "
    "fiasco filth fine fined flaw flee flop folly fool forc fraud frighten frustrat furious futile gamble gouge greed "
    "grief grim guilt harass hardship harm harsh hate hollow horr hostil humiliat hurt hypocri idle ignor illegal "
    "imped impos incompeten ineffective inept injur injust insult intimidat intrus invad invasion irresponsib jeopard "
    "kill lack lame late lavish leak lie lied limp loot lose loss lost lying manipulat massacre menac mess mislead "
    "mismanag miss mistak mock mourn murder naive neglect nightmare notorious object obsolete obstruct offend "
    "oppose opponent outrag overcharg overpriced overrun panic penal peril pillag plague plunder poison pollut poor "
    "pretend problem propagand protest provoc punish quit racis ravag recall reckless refus regret reject resent "
    "resign retreat ridicul risk rob rotten ruin ruthless sabotag scandal scam scare scorn secre seiz selfish shabby "
    "shame shell shock shoddy shortage shortfall sick sinister slaughter slow slump smear sorrow spoil squander "
    "stagger stall starv steal stole strain strand struggl stubborn stuck stupid suffer suspic tear terror theft "
    "threat thug torment torture toxic tragedy tragic trap troubl turmoil tyran ugly unable unaccept unafford "
    "undermin unfair unjust unlawful unnecess unpopular unreli unsafe unwant unworkab useless vandal vicious victim "
    "villain violat violen vulnerab warn waste weak weaken worr worse worst worthless wound wreck wrong".split()
)
_NEGATIONS = (
    "no not never none nobody nothing neither nor without hardly barely scarcely cannot can't don't doesn't didn't "
    "won't wouldn't isn't aren't wasn't weren't hasn't haven't hadn't couldn't shouldn't"
).split()
NEGATIONS = frozenset([*_NEGATIONS, *(word.replace("'", "") for word in _NEGATIONS)])  # tokens may lack apostrophes
MIN_STEM = 4  # shorter entries count only as whole words


@lru_cache(maxsize=100_000)
def polarity(word: str) -> int:
    """1 for a word of praise, -1 for one of blame, 0 for any other; the longest matching entry decides."""
    praise, blame = (_longest(word, entries) for entries in (PRAISE, BLAME))
    return (praise > blame) - (blame > praise)


def _longest(word: str, entries: Sequence[str]) -> int:
    return max((len(e) for e in entries if word == e or (len(e) >= MIN_STEM and word.startswith(e))), default=0)


def count_polarity(words: Sequence[str]) -> tuple[int, int]:
    """How many lower-case words of praise and of blame, negations heeded."""
    found = [0, 0]
    for i, word in enumerate(words):
        sign = polarity(word)
        if sign:
            negated = not NEGATIONS.isdisjoint(words[max(0, i - 3) : i])
            found[(sign > 0) == negated] += 1
    return found[0], found[1]
