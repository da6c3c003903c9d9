"""Nouns that a number may count: which words say only what there are five of.

A word after a number may also make it another number (``lakh``, ``倍``), take it back (``nicht``, ``excluded``) or turn
it round (``reciprocal``, ``loss``), and no list of such words is complete in any language. So the words here are those
that are let through: English plurals, the commonest names of stuff, and everyday nouns of other languages.
"""

from __future__ import annotations

import re

from llmgym.rewards.notation.numerals import FIRST_WORDS
from llmgym.rewards.notation.wording import word_set

_MAX_WORDS = 4

# --- Words that change the number -------------------------------------------------------------------------------------

#: Words that make a number mean another number, leave it open, or speak about it; no unit has one of them.
_NOT_UNITS = (FIRST_WORDS - {"point"}) | word_set("""
    a.m about above actually ad additional again ago almost altogether am and answer approx approximately are around
    as assume at base bc bce be because been before being below between beyond bigger billion billions binary but by
    can cannot ce check choose circa close correct cos could cubed decimal did different discarded disproved divided
    do does doubled doubtful dozen dozens e earlier eighth eighths either else equal equals error est estimate
    estimated even exactly except exclusive extra factorial false few fewer fifth fifths for fourth fourths from
    further gives greater guess had half halves has have he hence hex hexadecimal higher hmm hundred hundreds
    hundredth hundredths i ie if ignore impossible in inclusive incorrect inf infinity instead invalid is ish it its
    just larger later least less let ln log lower made makes many max maximum may maybe mean means might million
    millions min minimum minus missing mod modulo more most multiplied must my nah nan nd near nearly neither never
    ninth ninths no none nope nor not nothing null o'clock oclock octal odd off ok okay on only onward onwards
    optional or otherwise our out over p.m per perhaps pi plus pm possible possibly power presumably probably
    quarter quarters questionable raised rd rejected rem remainder respectively right roman root rough rounded score
    seventh sevenths shall she short should sin since sixth sixths smaller so some something sqrt squared st still
    sum suppose tan tenth tenths th than that the their them then there thereabouts therefore these they think third
    thirds this those though thousand thousands thousandth thousandths thrice through thus times to too tops
    trillion trillions tripled true twice typo uncertain undefined under unknown unless unlikely unsure until up
    upto upward upwards verify versus vs wait was we were when where whereas whether which while who whose will with
    without would wrong x yes yet you your

    basis bazillion bn bps centum couple couples crore crores decillion deficit deficits double doubles down fail
    failed failing fails gazillions gradian gradians grand grands gross grosses kilo lac lacs lakh lakhs loss mega
    mil mille million mils mio mrd mn myriad myriads nonillion octillion pair pairs ppb ppm ppt quadrillion
    quadrillions quadruple quintillion quintillions scores septillion sextillion ten tens tn triple triples turn turns
    zillion zillions gons grads permille permil

    complement complements conjugate conjugates inverse inverses modulus negated negation negations negative
    negatives opposite opposites positive positives reciprocal reciprocals reversed reverse reverses transpose
    ternary duodecimal quaternary senary vigesimal sexagesimal decimals
    contradicts contradiction contradictions debatable disagrees disallowed doubt doubts errs estimates exceeds
    exclude excluded excludes excluding exponent expects fake fallacies guesses ignored ignores incorrectly
    lies maybes mistake mistaken misses nots omits omitted overestimates overshoots
    refuted refutes retracted retracts underestimates undershoots unverified voided voids wrongs yields
    always sometimes nowadays afterwards backwards downwards besides perchance whereabouts
    debt debts north south east west clockwise counterclockwise anticlockwise
""") | word_set("""
    aber alors aproximadamente aucun aucuns ca cca cerca circa dann dezenas dezena docena docenas douzaine douzaines
    decena decenas dizaine dizaines dutzend dutzende centaine centaines centenas cientos etwa etwas environ environs
    eher fois falsch faux falso fast hundert ist jamais jamas kein keine keines knapp knappe maal mais manchmal mehr
    meistens menos mal malo mille millares millier milliers milliard milliarde milliarden milliards million millionen
    millones millon milhares milhao milhoes bilhoes bilhao billones billionen miliardi milioni mila mindestens minimos
    moins nada nein nicht nichts nie niemals no non not nunca pas peut plus presque quasi quelques sans seulement sin
    solo tal tausend tausende tous toutes veces viele vielleicht weniger wenigstens zirka
""")  # fmt: skip
#: What describes a noun and changes nothing, though by itself after a number it would.
_EMPTY_ADJECTIVES = word_set("different possible distinct")
#: Adverbs speak about a number (``roughly``); these nouns only look like adverbs.
_NOUNS_IN_LY = word_set("family lily ally jelly fly butterfly assembly supply reply monopoly bully belly dragonfly")

# --- Words that count things ------------------------------------------------------------------------------------------

_IRREGULAR = {"people": "person", "persons": "person", "children": "child", "men": "man", "women": "woman"}
_IRREGULAR |= {"mice": "mouse", "geese": "goose", "teeth": "tooth", "dice": "die", "lives": "life", "knives": "knife"}
_IRREGULAR |= {"leaves": "leaf", "loaves": "loaf", "wolves": "wolf", "vertices": "vertex", "halves": "half"}
_IRREGULAR |= {"shelves": "shelf", "calves": "calf", "oxen": "ox", "pies": "pie", "ties": "tie", "cookies": "cookie"}
_IRREGULAR |= {"movies": "movie", "brownies": "brownie", "zombies": "zombie", "buses": "bus", "gases": "gas"}
_IRREGULAR |= {"indices": "index", "matrices": "matrix", "axes": "axis", "foci": "focus", "radii": "radius"}
_IRREGULAR |= {"grandchildren": "grandchild", "policemen": "policeman", "firemen": "fireman", "tvs": "tv", "cds": "cd"}
_IRREGULAR |= {"snowmen": "snowman", "cacti": "cactus", "fungi": "fungus", "halfs": "half", "dvds": "dvd", "pcs": "pc"}
_HISSING = ("sses", "xes", "ches", "shes", "zzes")
#: The commonest things that are counted: these count in the singular too (``5 apple``).
_THINGS = word_set("""
    animal apple bag ball banana basket bean bike bird boat book bottle box boy bucket bus cake camper can candle car
    card cat chair child class coin cookie cow crayon cup day dog doll door duck egg employee family flower foot friend
    game gift girl glass goal guest hat hen hour house jar kid lemon letter marble member mile minute month muffin
    necklace orange outcome page path peach pear pen pencil person pie pizza plant plate player point pound puppy
    rabbit road room seat sheet shirt shoe slice solution song sticker stone stamp store student table teacher team
    ticket tile toy train tree truck vote way week window woman man worker year
""")
#: Without a plural of their own, and stuff that is measured or counted in portions as problems in words tell it.
_UNCOUNTED = word_set("""
    fish sheep deer cattle moose salmon trout shrimp aircraft spacecraft offspring series species dice swine bison
    water milk flour sugar rice money homework candy corn bread juice paint sand soil gas gasoline fuel oil lemonade
    tea coffee chocolate butter cheese meat beef chicken pork pasta soup salt pepper honey syrup food fruit popcorn
    ice cream cereal oatmeal wheat hay grass wood paper fabric ribbon rope wire cloth yarn string tape clay cement
    concrete gravel dirt gold silver copper iron steel clothing furniture jewelry luggage garbage trash mail traffic
    time work sleep rain snow soda beer wine jam batter dough tuna turkey produce seafood spaghetti broccoli lettuce
    garlic electricity energy tip change cash staff crew hair
""")
#: Everyday nouns of other languages.
_FOREIGN = word_set("""
    äpfel birnen bananen orangen kinder schüler schülerinnen studenten personen leute menschen männer frauen mädchen
    jungen tage wochen monate jahre stunden minuten sekunden grad meter kilometer zentimeter millimeter liter gramm
    kilogramm tonnen stück bücher hefte stifte bleistifte autos häuser bäume blumen eier kekse bonbons murmeln karten
    münzen seiten aufgaben punkte möglichkeiten wege tiere hunde katzen kühe hühner schafe pferde vögel fische flaschen
    gläser tassen teller stühle tische einheiten eur
    pommes poires oranges élève élèves enfants étudiants personnes hommes femmes filles garçons jours semaines mois
    années ans heures minutes secondes mètre mètres kilomètre kilomètres centimètre centimètres millimètres litres
    grammes kilogrammes livres cahiers crayons stylos voitures maisons arbres fleurs œufs oeufs gâteaux bonbons billes
    cartes pièces pages points façons manières animaux chiens chats vaches poules moutons chevaux oiseaux poissons
    bouteilles verres tasses assiettes chaises tables unités degrés
    manzanas peras naranjas plátanos niños niñas alumnos estudiantes personas hombres mujeres chicos chicas días
    semanas meses años horas minutos segundos metros kilómetros centímetros milímetros litros gramos kilogramos libros
    cuadernos lápices coches casas árboles flores huevos galletas caramelos canicas cartas monedas páginas puntos formas
    maneras animales perros gatos vacas gallinas ovejas caballos pájaros peces botellas vasos tazas platos sillas mesas
    unidades grados dólares pesos
    mele pere arance bambini studenti persone uomini donne ragazzi ragazze giorni settimane mesi anni ore minuti secondi
    metri chilometri centimetri litri grammi chilogrammi libri quaderni matite case alberi fiori uova biscotti
    caramelle carte monete pagine punti modi animali cani gatti
    maçãs laranjas crianças alunos pessoas homens mulheres dias anos quilômetros quilómetros centímetros livros árvores
    ovos moedas pontos maneiras reais
    яблок яблока яблоко груш апельсинов рублей рубля рубль копеек долларов часов часа час минут минуты минута секунд
    секунды дней дня день недель недели месяцев месяца лет года год метров метра метр километров километра сантиметров
    миллиметров литров литра граммов грамма грамм килограммов килограмма тонн тонны человек человека детей ребят
    учеников ученика студентов мальчиков девочек книг книги тетрадей карандашей ручек машин домов деревьев дерева
    цветов яиц конфет конфеты шариков карт монет страниц страницы задач очков способов способа животных собак кошек
    коров кур овец лошадей птиц рыб бутылок стаканов чашек тарелок стульев столов единиц градусов штук
    кг мг мл руб коп мин сек шт км/ч
    個 人 年 円 枚 本 匹 개 명 원 권 마리 시간 분 초 일 년
""")
#: Letters of words of English and of nothing else.
_ENGLISH = re.compile(r"[a-z]+(?:[-'.][a-z]+)*\Z")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’.][^\W\d_]+)*\.?\Z")
#: Participles are no nouns, these are.
_NOUNS_IN_ED_OR_ING = word_set("""
    bed seed weed shed sled reed breed steed ring king wing sing thing string spring swing sling being building painting
    drawing earring evening morning meeting wedding ceiling railing pudding dumpling stocking duckling sibling sting
""")
#: What a noun or a unit may be followed by without another meaning.
TRAILING = word_set("""
    each total altogether together combined left remaining overall old tall long wide high deep thick away apart
    sold bought baked eaten read needed required used worked walked driven traveled travelled collected picked planted
""")
#: What may stand between nouns: cups of tea.
_JOINING = frozenset({"of", "the", "a", "an"})


def noun(words: list[str], *, is_single: bool = False) -> str | None:
    """What is counted, in the singular, so that numbers of it agree; ``None`` where the words may say anything else.

    Args:
        words: One to four words after a number: a noun, with adjectives and nouns before it or "of" and a noun after.
        is_single: Whether the noun may stand in the singular: after 1, after "per".

    Example:
        >>> noun(["red", "apples"]), noun(["cups", "of", "tea"]), noun(["people"])
        ('red apple', 'cup of tea', 'person')
        >>> noun(["lakh"]), noun(["excluded"]), noun(["melon"]), noun(["melon"], is_single=True)
        (None, None, None, 'melon')
    """
    if len(words) > _MAX_WORDS:
        return None
    levelled = [word.rstrip(".").casefold().replace("’", "'") for word in words]
    if not all(map(_WORD.match, words)):
        return None
    while len(levelled) > 1 and levelled[-1] in TRAILING:
        levelled.pop()
    while len(levelled) > 1 and levelled[0] in _EMPTY_ADJECTIVES:
        del levelled[0]
    if levelled[0] in _JOINING or levelled[-1] in _JOINING:
        return None
    if any(word not in _JOINING and not _is_harmless(word) for word in levelled):
        return None
    head = levelled.index("of") if "of" in levelled else len(levelled)
    if not _JOINING.isdisjoint(levelled[:head]) or not _is_counted(levelled[head - 1], is_single=is_single):
        return None
    return " ".join(map(_singular, levelled))


def _is_harmless(word: str) -> bool:
    if len(word) < 2 and word.isascii():
        return False
    if word in _NOT_UNITS or not _NOT_UNITS.isdisjoint(word.replace("-", " ").split()):
        return False
    if word.endswith(("n't", "'re", "'ll", "'s")):
        return False
    return not word.endswith("ly") or _singular(word) in _NOUNS_IN_LY


def _is_counted(word: str, *, is_single: bool) -> bool:
    if word in _THINGS or word in _IRREGULAR or word in _UNCOUNTED or word in _FOREIGN:
        return True
    if _ENGLISH.match(word) is None:
        return False
    if _is_plural(word) or word.endswith("fish"):
        return True
    return is_single and (word in _NOUNS_IN_ED_OR_ING or not word.endswith(("ed", "ing")))


def _is_plural(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s"))


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if not _is_plural(word) or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(_HISSING) or word.endswith("oes"):
        return word[:-2]
    return word[:-1]


# --- Chinese ----------------------------------------------------------------------------------------------------------

#: Measure words, with which a count begins, and the commonest nouns that need none.
_HAN_MEASURES = frozenset(
    "个個只隻本人元天年岁歲块塊张張条條件位名支枝辆輛棵头頭匹米朵颗顆粒间間所座栋棟层層排行列班组組套台臺架艘把根袋包盒箱瓶杯碗盘盤"
    "桶罐篮籃束串片页頁册冊封首篇句词題题道种種次步段节節课課队隊户戶家口面扇顶頂顿頓滴股群批枚株轮輪项項场場届屆期级級号號平升克吨"
    "斤两米亩畝角度秒周月日夜笔筆"
)
_HAN_NOUNS = word_set("""
    学生 学生们 苹果 梨 桔子 橘子 橙子 香蕉 同学 小朋友 老师 工人 小时 分钟 单位 平方单位
    立方单位 书 花 树 鸡 兔 鸭 羊 牛 马 狗 猫 车
""")
_NOT_HAN = frozenset(
    "十百千万萬亿億兆零一二两三四五六七八九半分之或和与及至到不余餘约約左右上下多少超近几幾非未無无没沒否错錯对對是的吗呢吧起内外方幂冪根成折"
    "倍打双雙"
)
_MAX_HAN_NOUN = 4


def han_noun(text: str) -> str | None:
    """``个苹果``: a measure word with up to four characters of a noun, or one of the commonest nouns.

    >>> han_noun("个苹果"), han_noun("倍"), han_noun("个不对")
    ('个苹果', None, None)
    """
    if not text.isalpha() or not _NOT_HAN.isdisjoint(text):
        return None
    is_measured = text[0] in _HAN_MEASURES and len(text) <= 1 + _MAX_HAN_NOUN
    return text if is_measured or text in _HAN_NOUNS else None
