"""Worked solutions as models write them: several lines of reasoning, then an answer."""

# fmt: off
from .case import responses

PLAIN = responses(
    "worked solutions",
    ("""Let n be the number of coins that Mia has.
First she gives away 5, so n - 5 are left.
Then she doubles what is left: 2(n - 5) = 48.
Dividing by 2 gives n - 5 = 24.
Adding 5 gives n = 29.

The answer is 29.""", ["29"], ["24", "48", "5"]),
    ("""Step 1: The garden is 12 m long and 8 m wide.
Step 2: Its area is 12 * 8 = 96 square meters.
Step 3: The pond takes 4 * 5 = 20 square meters of it.
Step 4: 96 - 20 = 76.

Therefore, the remaining area is \\boxed{76}.""", ["76", r"76\text{ m}^2"], ["96", "20", "4"]),
    ("""<think>
The bus leaves at 9 and needs 3 hours for 180 km.
So it drives 180 / 3 = 60 km each hour.
In 5 hours it drives 60 * 5 = 300 km.
Hmm, is the pause included? The question says no pause.
So 300.
</think>
At 60 km/h the bus covers 300 km in 5 hours.

<answer>300 km</answer>""", ["300", "300 km"], ["60", "180", "300 m"]),
    ("""We are asked for the roots of $x^2 - 5x + 6 = 0$.

Factoring, we get $(x-2)(x-3) = 0$.

So either $x - 2 = 0$ or $x - 3 = 0$.

Thus the solutions are $\\boxed{2}$ and $\\boxed{3}$.""", ["2, 3", r"\{2,3\}", "x=2 or x=3"], ["2", "3", "6", "-2,-3"]),
    ("""Tom sells 14 cups at $2 each, that is 14 * 2 = <<14*2=28>>28 dollars.
He paid $9 for lemons and sugar.
His profit is 28 - 9 = <<28-9=19>>19 dollars.
#### 19""", ["19", r"\$19"], ["28", "9", "14"]),
    ("""Anna reads 20 pages on Monday.
On Tuesday she reads twice as many: 2*20 = 40 pages.
On Wednesday she reads 5 fewer than on Tuesday: 40-5 = 35 pages.
In all she reads 20+40+35 = 95 pages.
A: 95""", ["95"], ["35", "40", "20"]),
    ("""To find the probability we count the favourable outcomes.

- There are $6 \\cdot 6 = 36$ outcomes for two dice.
- The sum is 7 in 6 of them.

So the probability is
$$\\frac{6}{36} = \\frac{1}{6}.$$

**Answer:** $\\frac{1}{6}$""", ["1/6", "6/36"], ["6", "36", "1/36"]),
    ("""Using the quadratic formula,
\\begin{align*}
x &= \\frac{4 \\pm \\sqrt{16 - 4}}{2} \\\\
  &= \\frac{4 \\pm 2\\sqrt{3}}{2} \\\\
  &= 2 \\pm \\sqrt{3}.
\\end{align*}
The larger one is asked for, so the answer is $\\boxed{2 + \\sqrt{3}}$.""", [r"2+\sqrt{3}"], [r"2-\sqrt{3}", r"2\pm\sqrt{3}", "2"]),
    ("""By the Pythagorean theorem, the diagonal $d$ satisfies
$d^2 = 5^2 + 12^2 = 25 + 144 = 169.$
Since $d > 0$, we have $d = 13$.

The diagonal is 13 cm long, so the final answer is 13 cm.""", ["13", "13 cm"], ["169", "12", "13 m"]),
    ("""The common ratio is $r = \\frac{1}{2}$ and the first term is $a = 3$.
The sum of the infinite series is
\\[ S = \\frac{a}{1-r} = \\frac{3}{1/2} = 6. \\]
Hence the sum is $\\boxed{6}$.""", ["6"], ["3", "1/2"]),
    ("""Let us set up the equation for the two pumps.
The first fills 1/4 of the tank in an hour, the second 1/6.
Together they fill 1/4 + 1/6 = 5/12 of it in an hour.
So they need 12/5 = 2.4 hours.

Final answer: 2.4 hours""", ["2.4", "12/5", "2.4 hours"], ["5/12", "6", "2.4 minutes"]),
    ("""<think>
Total legs: 74. Heads: 26.
If all were chickens: 52 legs, so 22 legs too few.
Each rabbit adds 2 legs: 11 rabbits.
Chickens: 15.
</think>

There are 11 rabbits and 15 chickens. The question asks for the rabbits.

<answer>\\boxed{11}</answer>""", ["11"], ["15", "26", "22"]),
    ("""Inclusion and exclusion gives
|A or B| = |A| + |B| - |A and B| = 30 + 25 - 10 = 45.
There are 60 students in total.
So 60 - 45 = 15 students do neither.

The answer is 15 students.""", ["15", "15 students"], ["45", "60", "10"]),
    ("""The slope of the line through (1, 2) and (3, 8) is
(8 - 2) / (3 - 1) = 3.
With the point (1, 2): y - 2 = 3(x - 1).
Hence y = 3x - 1.

\\boxed{y = 3x - 1}""", ["y=3x-1", "3x-y-1=0"], ["y=3x+1", "y=-3x-1", "y=x-3"]),
    ("""We compute $\\int 2x\\,dx = x^2 + C$, and the condition $F(1) = 4$ yields $1 + C = 4$, that is $C = 3$.

So the function we look for is $F(x) = x^2 + 3$, and at $x = 5$ its value is $25 + 3 = 28$.

Answer: 28""", ["28"], ["25", "3", "4"]),
    ("""设这个数为 x。
根据题意，3x + 4 = 25。
两边减去 4，得 3x = 21。
所以 x = 7。

答案是 7。""", ["7"], ["21", "25", "4"]),
    ("""解：甲队每天修路 120 米，乙队每天修路 80 米。
两队合作，每天修 120 + 80 = 200 米。
全长 3000 米，需要 3000 ÷ 200 = 15 天。
答：15 天。

因此答案是 \\boxed{15}。""", ["15"], ["200", "3000", "80"]),
    ("""Pour trouver le prix, on calcule d'abord la remise.
La remise est de 20 % de 45 euros, soit 9 euros.
Le prix est donc 45 - 9 = 36 euros.
La réponse est 36 euros.""", ["36", "36 euros"], ["9", "45"]),
    ("""Zuerst bestimmen wir die Anzahl der Kisten: 144 / 12 = 12.
Jede Kiste kostet 3 Euro.
Also kostet alles zusammen 12 * 3 = 36 Euro.
Die Antwort ist 36.""", ["36"], ["12", "3", "144"]),
    ("""Let $s$ be the side. The area of the triangle is $\\frac{\\sqrt{3}}{4}s^2$.
With $s = 4$ we get $\\frac{\\sqrt{3}}{4} \\cdot 16 = 4\\sqrt{3}$.
Therefore, the area of the triangle is $4\\sqrt{3}$ square units.""", [r"4\sqrt{3}"], [r"\frac{\sqrt{3}}{4}", "16", "4", "3"]),
    ("""The vectors are orthogonal when their dot product is 0.
So $2k - 6 + 4 = 0$, which means $2k = 2$.
Hence $k = 1$, and the vector is
\\[ \\begin{pmatrix} 1 \\\\ -3 \\\\ 2 \\end{pmatrix}. \\]

$\\boxed{\\begin{pmatrix} 1 \\\\ -3 \\\\ 2 \\end{pmatrix}}$""", [r"\begin{bmatrix} 1 \\ -3 \\ 2 \end{bmatrix}"], [r"\begin{pmatrix} 2 \\ -3 \\ 1 \end{pmatrix}", "1", "(1,-3,2)"]),
    ("""First we need the domain of the square root: $x - 2 \\ge 0$, so $x \\ge 2$.
The denominator must not vanish, so $x \\ne 5$.
Putting both together, the domain is $[2, 5) \\cup (5, \\infty)$.

The answer is $[2,5)\\cup(5,\\infty)$.""", [r"[2,5)\cup(5,\infty)"], [r"[2,\infty)", r"(2,5)\cup(5,\infty)", "5"]),
    ("""Let's go through the options.
(A) 12 is even, so it is not prime.
(B) 15 is 3 times 5.
(C) 17 has no divisor but 1 and itself.
(D) 21 is 3 times 7.

The only prime is 17, so the answer is (C).""", ["C", r"\text{(C)}"], ["A", "B", "D"]),
    ("""She starts with 3 dozen eggs, which is 36 eggs.
She uses 10 of them for cakes, so 26 are left.
Half of these are sold: 13.
So **13 eggs** are sold.

#### 13""", ["13"], ["26", "36", "10"]),
)

SLIPS = responses(
    "worked solutions with a slip",
    ("""The price falls by 20 %, so it becomes 0.8 * 50 = 40 dollars.
Then it rises by 20 %, so it becomes 1.2 * 40 = 50 dollars.
The answer is 50.""", [], ["48", "40"]),
    ("""We need 7 * 8 + 6.
7 * 8 = 54.
54 + 6 = 60.
#### 60""", [], ["62", "54", "56"]),
    ("""<think>
The correct value would be 18: 3 * 6 = 18.
But maybe they want the half of it, so 9.
</think>
<answer>9</answer>""", ["9"], ["18", "6", "3"]),
    ("""The circle has radius 3, so its area is $9\\pi$.
With $\\pi \\approx 3.14$ this is about 28.26.

\\boxed{28.26}""", [], [r"9\pi", "9"]),
    ("""Solving gives x = 4 or x = -4.
Since a length is asked for, only x = 4 makes sense.

\\boxed{4}""", ["4"], [r"\pm 4", "-4", "4, -4"]),
    ("""The angles of the triangle sum to 180 degrees.
Two of them are 50° and 60°, so the third is 180° - 110° = 70°.

The answer is $70^\\circ$.""", [r"70^\circ", "70"], ["110", r"60^\circ", r"50^\circ"]),
    ("""Let me compute: 15% of 80 is 12.
Then 80 + 12 = 92.
Wait, the question asks for a discount. So 80 - 12 = 68.

So the answer is 68.""", ["68"], ["92", "12", "80"]),
    ("""We have $f(2) = 4$ and $f(3) = 9$.
The average rate of change is $\\frac{9-4}{3-2} = 5$.
\\boxed{5}

(The derivative at 2 would be 4, and at 3 it would be 6.)""", ["5"], ["4", "6", "9"]),
    ("""A first guess is \\boxed{12}.
Let me check it: 12 * 3 = 36, but we need 39.
So the guess is too small by one.
The number is \\boxed{13}.""", ["13"], ["12", "39", "36"]),
    ("""The numbers are 3, 5, and 7.
Their sum is 15 and their product is 105.
The answer is 3, 5, and 7.""", ["3,5,7"], ["15", "105", "7", "3"]),
)

CASES = [*PLAIN, *SLIPS]
