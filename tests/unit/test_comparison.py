"""Whether an answer equals the reference answer, from text to verdict."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgym.errors import InvalidOptionError
from llmgym.rewards.comparison.answers import STRICT, Leniency, Reference, Status, answers_equal, compare

# Each table: a reference answer, answers that equal it, answers that do not.
TABLES: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "numbers": [
        ("1/2", ["0.5", ".5", "\\frac12", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac12", "½", "50/100", "5e-1", "0.50", "5 \\times 10^{-1}", "one half", "二分之一", "$\\frac{1}{2}$", "50\\%"],
         ["0.51", "2", "-1/2", "1/3", "1.2", "12", "one", "0.5000001"]),
        ("1234", ["1,234", "1\\,234", "1{,}234", "1 234", "1234.0", "１２３４", "1234.", "+1234"], ["12,34", "1.234", "123", "12 34", "1,2,3,4"]),
        ("13/4", ["3 1/4", "3\\frac14", "3\\frac{1}{4}", "3.25"], ["3/4", "31/4", "3*1/4", "\\frac{3}{4}", "6.5/2"]),
        ("1/3", ["0.\\overline{3}", "0.(3)", "0.333...", "0.\\dot3", "\\frac{1}{3}", "2/6"], ["0.333", "0.33", "0.3333333333333333333333", "3", "0.3..."]),
        ("42", ["forty-two", "四十二", "42.0", "\\boxed{42}", "٤٢", "$42$", "\\(42\\)", "042"], ["", " ", "43", "4 2", "-42", "24", "42!", "answer", "x"]),
        ("-5", ["−5", "-5.0", "－5"], ["5", "--5", "±5"]),
        ("5000000", ["5 million", "5\\times10^6", "5e6", "500万"], ["5", "5 billion", "5000"]),
        ("3\\times10^5", ["300000", "3e5", "3 * 10^5", "30*10^4"], ["3*10^6", "35"]),
        ("0", ["0", "-0", "0.0"], ["", "0/5", "none", "1", "\\emptyset"]),
        ("\\frac{6}{8}", ["3/4", "0.75", "6/8"], ["8/6"]),
        ("10^{100}", ["10^{100}", "1" + "0" * 100, "1e100"], ["10^{101}", "10^{99}"]),
        ("1/2^{99}", ["2^{-99}", "\\frac{1}{2^{99}}"], ["1/2^{98}", "0"]),
    ],
    "approximations": [
        ("\\pi", ["π", "pi"], ["3.14", "3.14159265358979323846264338327950288419716939937510", "22/7", "\\approx 3.14"]),
        ("3.14", ["3.14", "\\approx 3.14", "≈ 3.14", "x ≈ 3.14", "3.140"], ["\\pi", "≈ 3.1", "3.1"]),
        ("42", [], ["about 42", "≈ 42", "~42", "\\approx 42", "42 or so", "roughly 42", "x ≈ 42"]),
        ("\\sqrt{2}", ["2^{1/2}", "√2", "\\sqrt2", "\\frac{2}{\\sqrt{2}}", "\\sqrt{2} \\approx 1.414", "x = \\sqrt2 ≈ 1.41"], ["1.414", "≈ 1.414", "\\sqrt2 + 10^{-40}", "-\\sqrt2", "\\sqrt3", "1.5 ≈ \\sqrt2"]),
        ("1/3", ["1/3 ≈ 0.33", "\\frac13 \\approx 0.333"], ["0.33 ≈ 1/3", "≈ 1/3", "1/3 ≈ 0.5"]),
    ],
    "irrational": [
        ("\\frac{\\sqrt{2}}{2}", ["\\frac{1}{\\sqrt{2}}", "\\sqrt{1/2}", "2^{-1/2}", "\\sin 45^\\circ", "0.5\\sqrt2"], ["\\frac{\\sqrt{3}}{2}", "0.7071", "\\frac{\\sqrt{2}}{4}"]),
        ("3+4i", ["4i+3", "3+4\\mathrm{i}", "3 + 4i"], ["3-4i", "4+3i", "5", "7i", "3+4j x"]),
        ("\\ln 2", ["\\log_e 2", "\\ln(2)", "-\\ln(1/2)", "\\frac{1}{2}\\ln 4"], ["0.693", "\\log_{10} 2", "\\ln 3"]),
        ("\\infty", ["∞", "infinity", "+\\infty"], ["-\\infty", "1e400", "\\infty/2 x", "undefined"]),
        ("2+\\sqrt{3}", ["\\sqrt3+2", "\\sqrt{7+4\\sqrt{3}}", "\\frac{1}{2-\\sqrt{3}}"], ["2-\\sqrt3", "\\sqrt{3}", "2\\sqrt3", "3.732"]),
        ("\\sqrt[3]{-8}", ["-2", "-\\sqrt[3]{8}"], ["2", "2i"]),
        ("\\log_2 3", ["\\frac{\\ln 3}{\\ln 2}", "\\log_4 9"], ["\\log_3 2"]),
        ("e^{i\\pi}", ["-1"], ["1"]),
    ],
    "expressions": [
        ("x^2+2x+1", ["(x+1)^2", "1+2x+x^2", "x(x+2)+1", "y = x^2+2x+1", "f(x) = (x+1)^2"], ["(x-1)^2", "x^2+2x", "(X+1)^2", "(y+1)^2", "x^2+2x+1.0001", "4"]),
        ("|x|", ["\\sqrt{x^2}", "|-x|"], ["x", "-x"]),
        ("p-q", ["-q+p"], ["P-Q", "q-p", "p-Q"]),
        ("\\sin^2 x + \\cos^2 x + x", ["x+1", "1 + x"], ["x", "x-1"]),
        ("x^2 + C", ["x^2 + K", "x^2+c", "C + x^2"], ["x^2", "x^2+D", "2x^2+C", "Cx^2", "x^2 + C x"]),
        ("2x", ["x+x", "2 x", "2\\cdot x", "\\frac{4x}{2}"], ["2", "x^2", "2y", "2x+1"]),
        ("\\frac{x}{y}", ["x/y", "xy^{-1}", "\\frac{2x}{2y}"], ["\\frac{y}{x}", "xy"]),
        ("x^{1/3}", ["\\sqrt[3]{x}"], ["\\sqrt{x}", "x^3"]),
        ("n!", ["n(n-1)!", "n \\cdot (n-1)!"], ["n", "(n+1)!"]),
        ("17*23", ["391", "17 \\times 23", "23*17", "17*23"], ["40", "17+23"]),
    ],
    "equations": [
        ("5", ["x = 5", "x=5", "5 = x", "n = 5", "x = y = 5", "the area = 5", "AB = 5", "f(2) = 5", "10/2 = 5"], ["x = 6", "x + 2 = 5", "2x = 10", "x >= 5", "x \\neq 5", "5 = 6", "4+2 = 5", "x = 5, y = 6", "not x = 5", "x^2 = 5"]),
        ("x=5", ["5", "x = 5.0", "5 = x", "x = 3 + 2 = 5"], ["y=5", "x=6", "2x + 3 = 13", "x - 5 = 0", "x > 5"]),
        ("x^2+y^2=4", ["x^2 + y^2 - 4 = 0", "y^2 + x^2 = 4", "4 = x^2+y^2", "2x^2+2y^2=8"], ["4", "x^2+y^2=2", "x^2+y^2", "x^2-y^2=4", "x=2"]),
        ("y=2x+3", ["2x-y+3=0", "y = 3+2x", "y-3=2x", "2x+3", "x = \\frac{y-3}{2}"], ["y=2x-3", "y=3x+2", "x=2y+3", "y=2x", "y>2x+3"]),
        ("391", ["17*23 = 391", "17 \\times 23 = 391"], ["17*23", "17*23 = 392", "391 = 17*23", "390+1"]),
        ("2x+1", ["f(x) = 2x+1", "y = 2x+1", "1+2x"], ["f(x) = 2x", "x = 2x+1"]),
        ("7 km", ["d = 7 km"], ["3 km + 5 km = 7 km", "7 m"]),
        ("\\frac{1}{2}", ["P(A) = \\frac12", "\\frac{2}{4} = \\frac{1}{2}"], ["P(A) = \\frac13"]),
    ],
    "unevaluated": [
        ("391", [], ["17*23", "17 \\cdot 23", "400-9", "782/2", "\\frac{782}{2}", "2*195.5"]),
        ("3", ["\\sqrt{9}", "\\sqrt9", "3^1", "\\log_2 8"], ["12/4", "\\frac{12}{4}", "2+1", "1*3", "\\sqrt{4+5}", "|{-3}|", "2^{2}-1"]),
        ("3/4", ["6/8", "\\frac{6}{8}", "0.75", "75/100"], ["3*1/4", "1/2+1/4", "1-1/4"]),
        ("1024", ["2^{10}", "32^2"], ["2*512", "2^{5+5}", "2^5*2^5"]),
        ("120", ["5!", "\\binom{10}{3}"], ["5*4*3*2*1", "6!/6", "4!*5"]),
        ("(1, 5)", ["(1,5)"], ["(1, 2+3)", "(1, 10/2)"]),
        ("1, 5", ["5 and 1"], ["1, 2+3"]),
        ("x > 5", ["(5, \\infty)"], ["x > 2+3"]),
    ],
    "percent": [
        ("28\\%", ["28%", "28", "0.28", "28 percent", "百分之二十八", "7/25", "28 \\%"], ["0.28%", "2800", "28.5%", "2.8", "28 km"]),
        ("28", ["28%", "28 percent"], ["0.28%", "0.28"]),
        ("0.28", ["28%", "0.28", "28\\%"], ["28", "0.28%"]),
        ("150", ["150%"], ["1.5", "1.5%"]),
    ],
    "units": [
        ("5 km", ["5", "5 kilometers", "5 kilometres", "5km", "5 \\text{ km}", "5\\,\\mathrm{km}", "5千米", "5 公里"], ["5 m", "5000 m", "5000", "5 miles", "6 km", "5 km/h", "5 km^2"]),
        ("5", ["5 km", "5 apples", "5 \\text{ cm}^2", "$5", "\\$5", "5 dollars", "5^\\circ"], ["5 dozen", "5 million", "5 hundred", "5x", "5k x", "5 or 6"]),
        ("5 apples", ["5", "5 apple", "5 Apples"], ["5 oranges", "6 apples"]),
        ("\\$5", ["5 dollars", "5 USD", "$5", "5", "$5.00"], ["500 cents", "5 euros", "€5"]),
        ("60 mph", ["60", "60 miles per hour", "60 mi/h"], ["60 km/h", "88 ft/s"]),
        ("45^\\circ", ["45°", "45 degrees", "45", "45度"], ["\\pi/4", "46°", "45 radians"]),
        ("12 cm^2", ["12 square centimeters", "12\\text{ cm}^2", "12"], ["12 cm", "12 m^2", "12 cm^3"]),
        ("3m", ["3m", "3 m", "m*3"], ["3", "3n", "3 km"]),
    ],
    "bases": [
        ("1010_2", ["0b1010", "1010_{2}", "1010_{two}", "1010_{\\text{two}}"], ["1010", "10", "12_8", "1011_2"]),
        ("10", ["10"], ["1010_2", "0b1010", "A_{16}"]),
        ("1F_{16}", ["0x1F"], ["31", "1F", "37_8"]),
    ],
    "ordered": [
        ("(1,2)", ["(1, 2)", "\\left(1,2\\right)", "\\langle 1,2\\rangle", "(1.0, 2.0)", "(x,y) = (1,2)"], ["(2,1)", "1, 2", "[1,2]", "{1,2}", "(1,2,3)", "(1)", "1", "(1,2]", "x=2, y=1"]),
        ("(1,2,3)", ["(1, 2, 3)", "[1,2,3]", "\\langle 1,2,3\\rangle"], ["(1,2)", "(3,2,1)", "1,2,3", "\\{1,2,3\\}", "[1,3,2]", "[1,2,3)"]),
        ("[1,2,3]", ["(1,2,3)"], ["(1,2,3]", "1,2,3", "[1,2]"]),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", ["\\begin{bmatrix}1\\\\2\\end{bmatrix}"], ["(1,2)", "[1,2]"]),
        ("1, 2", ["2, 1", "1 and 2", "2 or 1", "\\{1,2\\}", "1；2", "x = 1 or x = 2", "x = 1, 2"], ["(1,2)", "1", "2", "1, 2, 3", "1, 1", "1, 1, 2", "12", "x = 1, y = 2", "1.2"]),
        ("\\{1,2\\}", ["\\{2,1\\}", "{1, 2}", "1, 2", "\\{1,1,2\\}"], ["\\{1\\}", "(1,2)", "[1,2]", "\\{1,2,3\\}"]),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", ["\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "[[1,2],[3,4]]", "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"],
         ["\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", "\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "(1,2,3,4)", "-2", "\\begin{pmatrix}1&2\\end{pmatrix}"]),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", ["\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1.0\\\\2\\end{pmatrix}"], ["\\begin{pmatrix}1&2\\end{pmatrix}", "(1,2)", "1, 2"]),
        ("\\pm 3", ["3, -3", "-3 and 3", "x = 3 or x = -3", "x = \\pm 3", "±3", "\\{3, -3\\}"], ["3", "-3", "3, 3", "\\pm 4", "9"]),
        ("x \\in \\{\\pm 1\\}", ["1, -1", "x = \\pm 1", "\\pm 1"], ["1", "\\pm 2"]),
        ("2\\pm\\sqrt3", ["2+\\sqrt3, 2-\\sqrt3", "x = 2 \\pm \\sqrt{3}"], ["2+\\sqrt3", "\\pm(2+\\sqrt3)", "2\\pm\\sqrt5"]),
        ("(1,2), (3,4)", ["(3,4), (1,2)", "(1,2) and (3,4)"], ["(2,1), (3,4)", "(1,2)", "(1,3), (2,4)"]),
        ("(x,y) = (1,2)", ["x=1, y=2", "(1,2)", "y = 2, x = 1"], ["x=2, y=1", "(2,1)", "1, 2"]),
        ("3:1", ["3 : 1", "3 to 1", "6:2"], ["3", "1:3", "1/3", "3/1", "3:2", "3:1:1"]),
        ("1:2:3", ["2:4:6"], ["1:2", "3:2:1", "1:2:4"]),
        ("5", ["\\{5\\}", "(5)", "{5}"], ["5, 6", "(5, 5)", "5, 5"]),
    ],
    "sets": [
        ("(2,\\infty)", ["x>2", "2<x", "x \\in (2,\\infty)", "\\{x \\mid x > 2\\}", "\\{x : x>2\\}", "]2, \\infty[", "(2, ∞)"], ["x \\geq 2", "[2,\\infty)", "x<2", "x>3", "(-\\infty,2)", "2"]),
        ("[1,3)", ["1 \\leq x < 3", "1<=x<3", "3 > x \\geq 1", "[1, 3["], ["(1,3)", "[1,3]", "1<x<3", "1, 3", "(1,3]"]),
        ("(-\\infty,1)\\cup(3,\\infty)", ["x<1 or x>3", "(3,\\infty)\\cup(-\\infty,1)", "x > 3 or x < 1"], ["1<x<3", "x<1", "x<1 and x>3", "(-\\infty,1]\\cup(3,\\infty)"]),
        ("(-\\infty,\\infty)", ["\\mathbb{R}", "all real numbers", "全体实数"], ["\\emptyset", "x>0", "\\mathbb{Z}"]),
        ("\\mathbb{R} \\setminus \\{0\\}", ["(-\\infty,0)\\cup(0,\\infty)", "x \\neq 0", "\\{x \\mid x \\neq 0\\}"], ["\\mathbb{R}", "x > 0", "0", "x = 0"]),
        ("(1,3)", ["(1,2]\\cup(2,3)", "1<x<3", "x>1 and x<3"], ["(1,2)\\cup(2,3)", "x > 1"]),
        ("(-\\sqrt{2}, \\sqrt{2})", ["-\\sqrt2 < x < \\sqrt2", "(-\\frac{2}{\\sqrt{2}}, \\sqrt{2})"], ["[-\\sqrt2,\\sqrt2]", "(-1.414, 1.414)", "(\\sqrt2,-\\sqrt2)"]),
        ("x \\neq 0, 1", ["x \\neq 0 and x \\neq 1", "\\mathbb{R}\\setminus\\{0,1\\}", "x \\ne 1, 0"], ["x \\neq 0", "0, 1"]),
        ("x > 42", ["> 42", "42 < x"], ["42", "x \\geq 42", "y > 42", "2x > 84"]),
        ("42", [], ["\\neq 42", ">42", "\\geq 42", "<42", "not 42", "at least 42", "more than 42", "x > 42"]),
        ("\\{1\\} \\cup (2, 3)", ["x = 1 or 2 < x < 3"], ["[1,3)", "(2,3)", "1"]),
        ("\\emptyset", ["∅", "\\{\\}", "\\varnothing"], ["0", "\\{0\\}", "\\mathbb{R}"]),
        ("x \\in \\{1, 2\\}", ["1, 2", "\\{2, 1\\}", "x=1 or x=2"], ["1", "(1, 2)", "y = 1 or y = 2"]),
        ("x + y < 2", ["y + x < 2", "2 > x + y", "2x+2y < 4"], ["x + y > 2", "x+y \\leq 2", "-x-y<-4"]),
    ],
    "hedges": [
        ("42", [], ["41 or 42", "42 or 43", "between 41 and 43", "41-43", "42?", "maybe 42", "42 ± 1", "either 41 or 42", "42, 43", "42 (or 43)", "42/41"]),
        ("41 or 42", ["41, 42", "42 or 41"], ["41", "42", "41.5", "41-42"]),
    ],
    "words": [
        ("Evelyn", ["evelyn", "\\text{Evelyn}", "EVELYN", "**Evelyn**", "Evelyn."], ["Eve", "Evelyn and Bob", "not Evelyn", "42", ""]),
        ("even", ["Even", "\\text{even}"], ["odd", "not even", "even or odd", "uneven", "2"]),
        ("the circle", ["circle", "a circle", "The Circle"], ["the square", "circles of radius 2"]),
        ("yes", ["Yes", "YES.", "\\text{Yes}"], ["no", "yes and no", "true", "是"]),
        ("1:03 PM", ["1:03 p.m.", "1:03 pm", "1:03PM"], ["1:03 AM", "1:03", "13:03", "1:04 PM"]),
        ("Tuesday", ["tuesday", "\\textbf{Tuesday}"], ["Monday", "Tuesday or Monday"]),
        ("42", [], ["north", "forty", "yes"]),
        ("是", ["是"], ["否", "不是"]),
    ],
    "choices": [
        ("C", ["C", "c.", "(C)", "C)", "\\text{(C)}", "\\textbf{(C)}", "选C", "C. 42", "(C) 42 km", "C) 12 km", "\\textbf{(C)}\\ 42", "Option C", "c", "C:", "[C]", "**C**", "C. x < 2 or x > 5"],
         ["D", "(D)", "C or D", "(C) or (D)", "C, D", "not C", "C. 42 or D. 43", "(A)", "C D", "42", "Cat", "C is wrong", "C?", "B. C"]),
        ("(A)", ["A", "(A)", "a", "A."], ["B", "a man", "A or B"]),
        ("B, E, G", ["G, E, B", "B,E,G", "B and E and G", "(B), (E), (G)", "BEG"], ["B, E", "B, E, F", "BGE", "B"]),
        ("ABD", ["A, B, D", "A、B、D", "A and B and D", "\\text{A, B, D}", "D, A, B", "A B D", "选ABD"], ["AB", "A, B", "ABCD", "A, B, C", "A or B or D", "BAD", "ABDD", "(A, B, D)", "A"]),
        ("CAB", ["CAB", "cab"], ["C, A, B", "ABC"]),
        ("(A, B)", ["(A,B)"], ["AB", "(B,A)"]),
        ("B", ["\\boxed{B}", "\\left(B\\right)", "B ✅"], ["\\boxed{A}", "\\left(A\\right)", "B ❌"]),
    ],
    "sets in sets": [
        ("\\{1,2\\}", [], ["\\{\\{1\\},2\\}", "\\{1\\},\\{2\\}", "\\{\\{1,2\\}\\}"]),
        ("\\{\\{1\\},2\\}", ["\\{2,\\{1\\}\\}"], ["\\{1,2\\}", "1, 2"]),
        ("5", ["\\{5\\}", "{{{5}}}"], ["\\{\\{5\\}\\}"]),
        ("(\\{1\\},2)", ["(\\{1\\}, 2)"], ["(1,2)"]),
    ],
    "dressing": [
        ("12.5\\%", ["12\\frac{1}{2}\\%", "12½%", "12 1/2 %"], ["12\\frac{1}{3}\\%", "6\\%"]),
        ("18", ["$18 every day", "18 a day", "$18 per day", "18 each", "18 in total", "18 altogether", "18 left", "18 apples left", "\\$18 left over"], ["$19 every day", "18 dozen each", "18 times", "18 a", "17 left of 18"]),
        ("$18 per day", ["18 dollars a day", "18"], ["18 dollars an hour", "18 per hour"]),
        ("96", ["~96~", "**~96~**", "$~96~$", "96~", "96 ✅", "96 🎉", "96 □", "96 ∎", "96 \\blacksquare", "$96$ \\checkmark", "x = 96 ✓", "96. \\square"], ["~96", "~~96~~", "✗ 96", "96 ❌", "96 ✗", "96 ❓", "✅"]),
        ("12 cm^2", ["12 sq cm", "12 sq. cm", "12\\text{ sq. cm}"], ["12 sq m", "12 cu cm"]),
    ],
    "counts": [
        ("\\binom{12}{5}", ["C_{12}^{5}", "C_{12}^5", "{12 \\choose 5}", "_{12}C_5", "{}_{12}C_{5}", "C(12,5)", "12C5", "792"], ["C_{12}^{6}", "C_{5}^{12}", "793", "(12,5)", "A_{12}^5"]),
        ("792", ["C_{12}^{5}", "\\binom{12}{5}", "{}_{12}C_5"], ["C_{12}^{6}", "_{12}P_5"]),
        ("\\binom{20}{10}", ["\\frac{20!}{10!\\,10!}", "\\frac{20!}{10!10!}"], ["\\frac{20!}{10!\\,11!}"]),
        ("2^{n-1}", ["\\frac{2^n}{2}"], ["\\frac{2^n}{4}"]),
        ("20", ["A_5^2", "P_5^2"], ["C_5^2", "x_5^2"]),
    ],
    "bases in other forms": [
        ("\\text{A3}_{16}", ["A3_{16}", "a3_{16}", "0xA3"], ["A4_{16}", "A3_{15}", "163"]),
        ("1011_2", ["1011_{(2)}", "(1011)_2", "\\left(1011\\right)_2"], ["1011_{(3)}", "(1010)_2", "1011"]),
    ],
    "named values": [
        ("(3,-1)", ["x=3,\\ y=-1", "y = -1, x = 3", "x=3 and y=-1", "\\begin{cases} x = 3 \\\\ y = -1 \\end{cases}"], ["y=3, x=-1", "x=3 or y=-1", "x=3, x=-1", "x_1=3, x_2=-1"]),
        ("[3,4]", [], ["x=3, y=4"]),
        ("2,-5", ["x_1 = 2, x_2 = -5", "x_1=2` 或 `x_2=-5", "x_2 = -5; x_1 = 2"], ["x_1 = 2, y_2 = -5", "x_1 = 2", "x_1 = 2, x_2 = 5", "x = 2, y = -5"]),
        ("x=2 or x=-5", ["x_1 = 2, x_2 = -5"], ["y_1 = 2, y_2 = -5"]),
        ("x_1=2, x_2=-5", ["2, -5", "x = 2 or x = -5", "x_2=-5, x_1=2"], ["x_1=-5, x_2=2"]),
        ("x=1, y=2", ["\\begin{aligned} x &= 1 \\\\ y &= 2 \\end{aligned}", "(1,2)"], ["\\begin{aligned} x &= 2 \\\\ y &= 1 \\end{aligned}", "x=1 or y=2"]),
    ],
    "no solution": [
        ("\\emptyset", ["\\text{no solution}", "no solutions", "no real solutions", "无解", "\\varnothing"], ["solution", "not no solution", "none", "0", "one solution"]),
        ("\\text{no solution}", ["∅", "There is no solution.", "无解"], ["0", "infinitely many solutions"]),
    ],
    "distances": [
        ("(-3,3)", ["|x| < 3", "3 > |x|", "|-x| < 3"], ["|x| \\le 3", "|x| > 3", "|x| < 2", "|x - 1| < 3", "|x - a| < 3", "|z| < 3", "|x^2| < 3"]),
        ("[-1,3]", ["|x-1| \\le 2", "|1-x| \\leq 2", "|2x-2| \\leq 4"], ["|x-1| < 2", "|x+1| \\le 2"]),
        ("(-\\infty,-3)\\cup(3,\\infty)", ["|x|>3", "3 < |x|"], ["|x| \\ge 3", "|x| < 3"]),
        ("(-\\sqrt2,\\sqrt2)", ["|x|<\\sqrt2"], ["|x|<1.414"]),
        ("\\emptyset", ["|x| < -1"], ["|x| \\le 0", "|x| > -1"]),
        ("\\mathbb{R}", ["|x| \\ge 0", "|x| > -1"], ["|x| > 0", "|x - x| < 1"]),
    ],
    "large and equal": [
        ("2^{10^9}", ["2^{1000000000}"], ["2^{1000000001}", "3^{10^9}", "2^{10^9}+1"]),
        ("(1+x)^{100000}", ["(x+1)^{100000}"], ["(x+2)^{100000}", "(x+1)^{100001}"]),
        ("7" * 5000, ["7" * 5000 + " ", "$" + "7" * 5000 + "$"], ["7" * 5001, "7" * 4999 + "8"]),
    ],
    "branches": [
        ("x+100", [], ["|x+100|", "\\sqrt{(x+100)^2}"]),
        ("|x+100|", ["\\sqrt{(x+100)^2}", "|-100-x|"], ["x+100"]),
        ("50-x", [], ["\\sqrt{(x-50)^2}"]),
        ("2\\ln(x+100)", ["\\ln(100+x)\\cdot 2"], ["\\ln((x+100)^2)"]),
        ("2\\ln|x|", ["\\ln(x^2)"], ["2\\ln x"]),
        ("x^2", [], ["x^2+\\max(0,x-100)", "x^2+\\max(0,\\min(x-100,101-x))", "\\min(x^2,10^{12})", "x^2+0^{|x-5|}"]),
        ("x", [], ["\\max(0,x-\\frac{7}{3})+x", "x+\\max(0,|3x|-1000)", "x+\\lfloor\\frac{1}{1+|x-5|}\\rfloor"]),
        ("|x|", ["\\max(x,-x)"], ["|x| \\bmod 1000", "\\min(|x|,10^6)", "\\min(|x|,e^{50})"]),
        ("10^9", [], ["\\max(x,10^9)"]),
        ("\\max(x,100)", ["\\frac{x+100+|x-100|}{2}"], ["x", "100"]),
        ("\\sqrt{(x+100)(x+200)}", ["\\sqrt{x^2+300x+20000}"], ["\\sqrt{x+100}\\sqrt{x+200}"]),
        ("\\frac{x}{100}", [], ["\\arcsin(\\sin(x/100))"]),
        ("y=x+100", ["x-y=-100"], ["y=|x+100|"]),
        ("-\\ln\\frac{100-x}{100}", ["\\ln\\frac{100}{100-x}"], ["\\ln\\frac{100-x}{100}"]),
        ("\\lceil n/2\\rceil", ["-\\lfloor -n/2\\rfloor"], ["\\lfloor n/2\\rfloor+1"]),
        ("\\lfloor x\\rfloor+1", ["\\lfloor x+1\\rfloor"], ["\\lceil x\\rceil"]),
        ("n!", ["n(n-1)!"], ["n!+\\lfloor\\frac{n}{100}\\rfloor"]),
        ("\\binom{n}{k}", ["\\frac{n!}{k!(n-k)!}", "\\binom{n}{n-k}"], ["\\binom{n}{k+1}"]),
        ("x \\bmod 7", ["x-7\\lfloor\\frac{x}{7}\\rfloor"], ["x"]),
    ],
    "tiny differences": [
        ("\\pi", ["2\\arcsin 1", "\\pi e^{300}e^{-300}"],
         ["\\pi\\cos(e^{-140})", "\\pi(1+e^{-400})(1-e^{-400})", "\\pi\\frac{\\sin(e^{-200})}{e^{-200}}", "\\pi\\cosh(e^{-200})", "\\pi\\tanh(1000)", "\\pi\\cos(e^{-50})\\cosh(e^{-50})"]),
        ("\\sin x", ["\\cos(\\frac{\\pi}{2}-x)"], ["\\sin x(1+e^{-300})(1-e^{-300})"]),
        ("y=\\sin x", ["2y=2\\sin x"], ["y=\\sin x(1+e^{-300})(1-e^{-300})"]),
        ("x+1", ["\\frac{x^2-1}{x-1}"], ["x+1+(x-10538780552900759601)(x-18299390558047559181)"]),
    ],
    "logarithms without a base": [
        ("\\log 2", ["\\ln 2", "\\log_{10} 2", "\\log 4-\\log 2"], ["\\log_2 2", "\\log 3", "\\frac{\\ln 2+\\log_{10} 2}{2}"]),
        ("\\log_{10} 2", ["\\log 2", "\\lg 2"], ["\\ln 2"]),
        ("\\ln 2", ["\\log 2"], ["\\log_{10} 2", "\\lg 2"]),
        ("2", ["\\log 100"], ["\\log 10"]),
        ("y=\\log_{10} x", ["y=\\log x"], ["y=\\ln x"]),
    ],
    "derivatives": [
        ("\\frac{dy}{dx}", ["\\dfrac{dy}{dx}"], ["\\frac{y}{x}", "\\frac{dy}{x}", "\\frac{dx}{dy}"]),
        ("\\frac{y}{x}", ["\\frac{dy}{dx} = \\frac{y}{x}"], ["\\frac{dy}{dx}"]),
        ("\\frac{dy}{x^2}", ["\\frac{yd}{x^2}"], ["\\frac{d^2y}{dx^2}"]),
        ("2x", ["\\frac{dy}{dx} = 2x"], ["\\frac{dy}{dx}"]),
        ("\\frac{dy}{dx} = 2x", ["2x", "\\frac{dy}{dx} = x+x"], ["\\frac{dx}{dy} = 2x", "\\frac{y}{x} = 2x"]),
        ("x\\frac{dy}{dx}+y", ["y+x\\frac{dy}{dx}"], ["2y"]),
        ("\\frac{\\pi d^2}{4}", ["\\pi (d/2)^2"], ["\\frac{\\pi d}{4}"]),
        ("\\frac{d}{2v}", ["\\frac{0.5d}{v}"], ["\\frac{2d}{v}"]),
    ],
    "determinants": [
        ("x-6", ["\\begin{vmatrix}1&2\\\\3&x\\end{vmatrix}", "\\det\\begin{pmatrix}x&3\\\\2&1\\end{pmatrix}"], ["\\begin{vmatrix}1&3\\\\3&x\\end{vmatrix}", "\\begin{vmatrix}1&2&3\\\\3&x&1\\end{vmatrix}"]),
        ("a \\cdot b \\cdot c \\cdot d", ["\\begin{vmatrix}a&1&1&1\\\\0&b&1&1\\\\0&0&c&1\\\\0&0&0&d\\end{vmatrix}"], ["\\begin{vmatrix}0&a&1&1\\\\b&0&1&1\\\\0&0&c&1\\\\0&0&0&d\\end{vmatrix}"]),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", ["\\frac{1}{2}\\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}"], ["2\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"]),
    ],
    "same text": [
        ("\\|v\\|", ["\\| v \\|", "\\left\\| v\\right\\|"], ["\\| w \\|", "v"]),
        ("n!!", ["n !!"], ["n!", "m!!"]),
        ("\\overrightarrow{AB}", ["\\overrightarrow{ AB }"], ["\\overrightarrow{BA}", "AB"]),
        ("\\vec{v}", ["\\vec v"], ["v", "\\vec w"]),
        ("\\mathbf{i}", ["\\mathbf i"], ["\\mathbf{j}"]),
        ("\\frac{5}{6}", ["\\ \\frac{5}{6}\\ ", "\\;\\frac{5}{6}\\,", "\\quad\\frac{5}{6}\\qquad", "\\frac{5}{6}\\"], ["\\ \\frac{6}{5}\\ "]),
        ("\\begin{pmatrix}1/2\\\\-1\\end{pmatrix}", ["\\begin{pmatrix}\\frac{1}{2}\\\\[3pt] -1\\end{pmatrix}"], ["\\begin{pmatrix}1/2\\\\[3pt] 1\\end{pmatrix}"]),
        ("36", ["36 см²", "36 см"], ["36 нет"]),
        ("36 cm^2", ["36 см²"], ["36 м²", "36 см"]),
        ("0.99", ["0.990"], ["0.99...", "0.99…"]),
        ("3.14159", [], ["3.14159..."]),
        ("\\begin{cases} x & x>0 \\\\ -x & x\\le 0\\end{cases}", ["\\begin{cases}x&x>0\\\\-x&x\\le0\\end{cases}", "\\begin{cases} x, & x>0 \\\\ -x, & x\\le 0\\end{cases}"], ["\\begin{cases} x & x>0 \\\\ -x & x< 0\\end{cases}"]),
        ("4 2 !!", [], ["42 !!"]),
    ],
}  # fmt: skip

ACCEPTED = [(answer, right) for table in TABLES.values() for right, answers, _ in table for answer in answers]
REFUSED = [(answer, right) for table in TABLES.values() for right, _, answers in table for answer in answers]


@pytest.mark.parametrize(("answer", "reference"), ACCEPTED)
def test_accepted(answer: str, reference: str) -> None:
    match = compare(answer, reference)
    assert match.status is Status.CORRECT, match.reason


@pytest.mark.parametrize(("answer", "reference"), REFUSED)
def test_refused(answer: str, reference: str) -> None:
    assert compare(answer, reference).status is not Status.CORRECT
    assert compare(answer, Reference(reference)) == compare(answer, reference)


@pytest.mark.parametrize("reference", [right for table in TABLES.values() for right, _, _ in table])
def test_every_reference_equals_itself(reference: str) -> None:
    assert answers_equal(reference, reference)
    assert answers_equal(f" $ {reference} $ " if "$" not in reference else reference, reference)


# --- Reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "status", "reason"),
    [
        ("42", "42", "correct", "same_text"),
        ("42.0", "42", "correct", "same_value"),
        ("(C)", "C", "correct", "same_text"),
        ("43", "42", "incorrect", "different_value"),
        ("17*23", "391", "incorrect", "unevaluated"),
        ("17*24", "391", "incorrect", "different_value"),
        ("5 km", "5 m", "incorrect", "different_unit"),
        ("1010_2", "10", "incorrect", "different_base"),
        ("y=5", "x=5", "incorrect", "different_name"),
        ("D", "C", "incorrect", "different_choice"),
        ("north", "42", "incorrect", "different_text"),
        ("1", "1, 2", "incorrect", "incomplete"),
        ("41 or 42", "42", "incorrect", "several_answers"),
        ("[1,2]", "(1,2)", "incorrect", "different_brackets"),
        ("(1,2,3)", "(1,2)", "incorrect", "different_length"),
        ("3:1", "3", "incorrect", "ratio"),
        ("\\approx 42", "42", "incorrect", "approximate"),
        ("x > 42", "42", "incorrect", "different_structure"),
        ("", "42", "incorrect", "no_answer"),
        ("9^{9^{9^9}}", "42", "unverifiable", "too_large"),
        ("(10^9)!", "42", "unverifiable", "too_large"),
        ("1/0 + \\sqrt{2}", "42", "unverifiable", "undefined"),
        ("x > 1, x < 3", "(1, 3)", "unverifiable", "ambiguous"),
        ("\\weird{3}{4}", "42", "unverifiable", "not_understood"),
        ("1" * 5000, "42", "unverifiable", "too_long"),
    ],
)
def test_reasons(answer: str, reference: str, status: str, reason: str) -> None:
    match = compare(answer, reference)
    assert (match.status.value, match.reason) == (status, reason)


# --- Leniency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "answer", "reference"),
    [
        ("allow_unevaluated", "17*23", "391"),
        ("allow_unevaluated", "12/4", "3"),
        ("allow_unevaluated", "(1, 2+3)", "(1, 5)"),
        ("allow_unevaluated", "x > 2+3", "x > 5"),
        ("convert_units", "1 km", "1000 m"),
        ("convert_units", "500 cents", "\\$5"),
        ("convert_units", "\\pi/4", "45^\\circ"),
        ("convert_units", "45^\\circ", "\\pi/4"),
        ("convert_units", "36 km/h", "10 m/s"),
        ("convert_bases", "10", "1010_2"),
        ("convert_bases", "12_8", "1010_2"),
        ("convert_bases", "1010_2", "10"),
        ("ratio_as_fraction", "3:1", "3"),
        ("ratio_as_fraction", "1:2", "1/2"),
        ("ratio_as_fraction", "0.5", "1:2"),
        ("ignore_brackets", "1, 2", "(1, 2)"),
        ("ignore_brackets", "(1, 2)", "1, 2"),
    ],
)
def test_each_leniency_forgives_what_it_says_and_no_other_does(argument: str, answer: str, reference: str) -> None:
    switches = ["allow_unevaluated", "convert_units", "convert_bases", "ratio_as_fraction", "ignore_brackets"]
    assert not answers_equal(answer, reference)
    assert answers_equal(answer, reference, **{argument: True})
    others = {name: True for name in switches if name != argument}
    assert not answers_equal(answer, reference, **others)


@pytest.mark.parametrize(
    ("argument", "answer", "reference"),
    [
        ("allow_unevaluated", "17*24", "391"),
        ("convert_units", "1 km", "1001 m"),
        ("convert_units", "1 km", "1000 s"),
        ("convert_units", "5 apples", "5 oranges"),
        ("convert_bases", "1010", "1010_2"),
        ("ratio_as_fraction", "3:1", "1/3"),
        ("ignore_brackets", "2, 1", "(1, 2)"),
        ("ignore_brackets", "[1, 2]", "(1, 2)"),
    ],
)
def test_leniency_does_not_forgive_other_values(argument: str, answer: str, reference: str) -> None:
    assert not answers_equal(answer, reference, **{argument: True})


def test_tolerances_are_those_of_math_isclose() -> None:
    assert answers_equal("3.14", "\\pi", abs_tol=0.01)
    assert not answers_equal("3.14", "\\pi", abs_tol=0.001)
    assert answers_equal("0.333", "1/3", rel_tol=0.01)
    assert not answers_equal("0.333", "1/3", rel_tol=0.0001)
    assert answers_equal("(0.333, 2)", "(1/3, 2)", rel_tol=0.01)
    assert answers_equal("0.67, 0.333", "1/3, 2/3", abs_tol=0.01)
    assert answers_equal("≈ 3.14", "\\pi", abs_tol=0.01)
    assert answers_equal("99 km", "100", rel_tol=0.01)
    assert not answers_equal("x", "y", rel_tol=0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rel_tol": -1.0}, "Expected `rel_tol` to be a finite number >= 0"),
        ({"abs_tol": float("nan")}, "Expected `abs_tol` to be a finite number >= 0"),
        ({"abs_tol": float("inf")}, "actual: inf"),
        ({"rel_tol": "0.1"}, "actual: '0.1'"),
        ({"rel_tol": True}, "actual: True"),
        ({"convert_units": 1}, "Expected `convert_units` to be True or False, actual: 1"),
        ({"convert_unit": True}, "Did you mean 'convert_units'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        answers_equal("1", "1", **arguments)


# --- References -------------------------------------------------------------------------------------------------------


def test_references_are_values() -> None:
    one, same, other = Reference("1/2"), Reference("1/2"), Reference("0.5")
    assert one == same and hash(one) == hash(same) and one != other and one != "1/2"
    assert repr(one) == "Reference('1/2')"
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert compare("50\\%", copy) == compare("50\\%", "1/2")


# --- Bounds -----------------------------------------------------------------------------------------------------------

HARD = [
    "9^{9^{9^9}}",
    "9^{9^{9^{9}}} + x",
    "(10^9)!",
    "((9!)!)!",
    "\\binom{10^9}{5 \\cdot 10^8}",
    "e^{e^{e^{e^{x}}}}",
    "\\sin(10^{10^{10}})",
    "\\sqrt[10^9]{2} + \\pi",
    "2^{1/1000000007}",
    "1" * 3000 + "/" + "7" * 900,
    "9" * 100_000,
    "(" * 2000 + "1" + ")" * 2000,
    "\\sqrt{" * 60 + "2" + "}" * 60,
    "\\frac{1}{" * 300 + "2" + "}" * 300,
    "+".join(f"\\sin({number})" for number in range(300)),
    "*".join(f"(x+{number})" for number in range(400)),
    "^".join(["x"] * 200),
    "\\sqrt{2}^{\\sqrt{3}^{\\sqrt{5}^{\\sqrt{7}^{\\sqrt{11}}}}}",
    "+".join(f"\\sqrt{{{number}}}" for number in range(2, 400)),
    ",".join(f"\\sqrt{{{number}}}" for number in range(2, 300)),
    ",".join(f"x+{number}" for number in range(300)),
    "\\{" + ",".join(f"\\sqrt{{{number}}}" for number in range(2, 300)) + "\\}",
    "\\pm " * 30 + "1",
    "+".join(["\\pm 1"] * 30),
    "\\{1\\pm\\sqrt{5},-2\\}-2",
    " \\cup ".join(f"({number}, {number + 1})" for number in range(300)),
    " or ".join(f"\\sqrt{{{number}}} < x < \\sqrt{{{number + 1}}}" for number in range(100)),
    "(x+1)^{5000}",
    "(x+y+z)^{1000}",
    "1e999999999",
    "10^{-999999999}",
    "0.(" + "1" * 3000 + ")",
    "\\gcd(x, y)^{\\gcd(x, y)}",
    "(x!)!",
    "e^{1000} + 1",
    "=".join(["x"] * 1000),
    "<".join(str(number) for number in range(800)),
    ":".join(["1"] * 1000),
    "[" + ",".join(["[" + ",".join(["\\sqrt{2}"] * 30) + "]"] * 30) + "]",
]
OTHERS = [
    "42",
    "\\pi",
    "x+1",
    "x > \\sqrt{2}",
    "1, \\sqrt{2}",
    "(0, 1)",
    "y = x",
    "Evelyn",
    "C",
    "3:1",
    "5 km",
    "\\pm \\sqrt{2}",
]


@pytest.mark.parametrize("index", range(len(HARD)))
def test_hard_texts_cost_little(index: int) -> None:
    hard = HARD[index]
    start = time.process_time()
    for other in OTHERS:
        assert compare(hard, other).status is not Status.CORRECT
        assert compare(other, hard).status is not Status.CORRECT
        assert compare(hard + "+1", hard).status is not Status.CORRECT
    assert compare(hard, hard).status is Status.CORRECT
    assert time.process_time() - start < 5.0  # 36 comparisons; a tower or a factorial worked out would take for ever


# --- Processes and threads --------------------------------------------------------------------------------------------

VERDICTS = """
from llmgym.rewards.comparison.answers import compare
pairs = [("x^2 + x", "x(x+1)"), ("x > 2 or x < 1", "(-\\\\infty, 1) \\\\cup (2, \\\\infty)"), ("\\\\sqrt{8}", "2\\\\sqrt{2}"),
         ("c, b, a", "a, b, c"), ("\\\\{x, y, z\\\\}", "\\\\{z, y, x\\\\}"), ("\\\\sin(a+b)", "\\\\sin(a)\\\\cos(b)+\\\\cos(a)\\\\sin(b)"),
         ("9^{9^{9^9}}", "x"), ("x = 1, y = 2", "y = 2, x = 1")]
print([compare(*pair) for pair in pairs])
"""


def test_verdicts_are_the_same_under_any_hash_seed() -> None:
    outputs = set()
    for seed in ("0", "1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", VERDICTS], capture_output=True, text=True, check=True, env=environment
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs.pop().count("'correct'") == 7


def test_verdicts_are_the_same_in_any_thread() -> None:
    cases = (ACCEPTED + REFUSED)[::5]
    alone = [compare(*case) for case in cases]
    seen: list[bool] = []

    def judge(offset: int) -> None:
        order = [(step + offset) % len(cases) for step in range(len(cases))]
        seen.append(all(compare(*cases[at]) == alone[at] for at in order))

    threads = [threading.Thread(target=judge, args=(29 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


# --- Properties -------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["1", "2", "42", "0.5", "1,000", "x", "y", "C", "(", ")", "[", "]", "\\{", "\\}", ",", ";", " or ", " and ", "+", "-", "*", "/", "^", "!",
     "=", "<", "\\leq", "\\neq", "\\approx", "\\in", "\\cup", "\\sqrt{", "\\frac{", "}{", "}", "{", "\\pi", "\\infty", "i", "e", "%", "km", " m",
     "^\\circ", "\\pm", "|", ":", "_2", "\\text{", "\\sin", "\\log", "$", ".", "?", "not ", "一", "½", "\ud800", "\\begin{pmatrix}", "&", "\\\\",
     "\\end{pmatrix}", " ", "..."]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_any_two_texts_get_a_verdict(answer: str, reference: str) -> None:
    match = compare(answer, reference)
    assert match == compare(answer, Reference(reference))
    assert match.reason.replace("_", "").isalpha()
    if answer.strip(" $.。\n"):
        assert compare(answer, answer).status is Status.CORRECT


def notations(value: Fraction) -> list[str]:
    above, below = value.numerator, value.denominator
    texts = (
        [f"{above}/{below}", f"\\frac{{{above}}}{{{below}}}", f"x = {above}/{below}"]
        if below != 1
        else [str(above), f"x={above}", f"{above}.0"]
    )
    while below % 2 == 0:
        below //= 2
    while below % 5 == 0:
        below //= 5
    if below == 1:
        places = len(str(value.denominator)) * 4
        digits = f"{abs(above) * 10**places // value.denominator:0{places + 1}d}"
        texts.append(f"{'-' if above < 0 else ''}{digits[:-places]}.{digits[-places:]}")
    return texts


@given(st.fractions(max_denominator=1000), st.data())
def test_a_number_is_equal_in_any_two_notations(value: Fraction, data: st.DataObject) -> None:
    one, other = data.draw(st.sampled_from(notations(value))), data.draw(st.sampled_from(notations(value)))
    assert answers_equal(one, other)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000), st.data())
def test_different_numbers_are_never_equal(value: Fraction, other: Fraction, data: st.DataObject) -> None:
    if value != other:
        assert not answers_equal(
            data.draw(st.sampled_from(notations(value))), data.draw(st.sampled_from(notations(other)))
        )


LITERALS = st.sampled_from(
    [
        "1/2",
        "0.5",
        "3",
        "3.0",
        "6/2",
        "-4",
        "2^{2}",
        "\\sqrt{16}",
        "4",
        "1e1",
        "10",
        "50\\%",
        "1 1/2",
        "1.5",
        "5!",
        "120",
    ]
)


@given(LITERALS, LITERALS)
def test_literals_are_equal_both_ways_where_nothing_needs_to_be_worked_out(one: str, other: str) -> None:
    lenient = Leniency(allow_unevaluated=True)
    assert compare(one, other, lenient).status is compare(other, one, lenient).status
    assert (
        compare(one, other, STRICT).status is not Status.CORRECT
        or compare(one, other, lenient).status is Status.CORRECT
    )
