"""The five worked tables of meta-analysis that metafor ships, as published."""

from __future__ import annotations

from pathlib import Path

from common.cohort.table import read_csv
from common.meta.tables import Effects, read_effects

# Colditz et al., JAMA 1994: vaccine against tuberculosis.
BCG = """\
trial,author,year,tpos,tneg,cpos,cneg,ablat,alloc
1,Aronson,1948,4,119,11,128,44,random
2,Ferguson & Simes,1949,6,300,29,274,55,random
3,Rosenthal et al,1960,3,228,11,209,42,random
4,Hart & Sutherland,1977,62,13536,248,12619,52,random
5,Frimodt-Moller et al,1973,33,5036,47,5761,13,alternate
6,Stein & Aronson,1953,180,1361,372,1079,44,alternate
7,Vandiviere et al,1973,8,2537,10,619,19,random
8,TPT Madras,1980,505,87886,499,87892,13,random
9,Coetzee & Berjak,1968,29,7470,45,7232,27,random
10,Rosenthal et al,1961,17,1699,65,1600,42,systematic
11,Comstock et al,1974,186,50448,141,27197,18,systematic
12,Comstock & Webster,1969,5,2493,3,2338,33,systematic
13,Comstock et al,1976,27,16886,29,17825,33,systematic
"""
# Egger et al. 2001: magnesium after a heart attack.
EGGER2001 = """\
id,study,year,ai,n1i,ci,n2i
1,Morton,1984,1,40,2,36
2,Rasmussen,1986,9,135,23,135
3,Smith,1986,2,200,7,200
4,Abraham,1987,1,48,1,46
5,Feldstedt,1988,10,150,8,148
6,Shechter,1989,1,59,9,56
7,Ceremuzynski,1989,1,25,3,23
8,Bertschat,1989,0,22,1,21
9,Singh,1990,6,76,11,75
10,Pereira,1990,1,27,7,27
11,Shechter,1991,2,89,12,80
12,Golf,1991,5,23,13,33
13,Thogersen,1991,4,130,8,122
14,LIMIT-2,1992,90,1159,118,1157
15,Shechter,1995,4,107,17,108
16,ISIS-4,1995,2216,29011,2103,29039
"""
# Normand, Stat Med 1999: days in hospital after a stroke.
NORMAND1999 = """\
study,source,n1i,m1i,sd1i,n2i,m2i,sd2i
1,Edinburgh,155,55,47,156,75,64
2,Orpington-Mild,31,27,7,32,29,4
3,Orpington-Moderate,75,64,17,71,119,29
4,Orpington-Severe,18,66,20,18,137,48
5,Montreal-Home,8,14,8,13,18,11
6,Montreal-Transfer,57,19,7,52,18,4
7,Newcastle,34,52,45,33,41,34
8,Umea,110,21,16,183,31,27
9,Uppsala,60,30,27,52,23,20
"""
# Raudenbush and Bryk 1985: teachers' expectations.
RAUDENBUSH1985 = """\
study,author,year,weeks,setting,tester,n1i,n2i,yi,vi
1,Rosenthal et al.,1974,2,group,aware,77,339,0.03,0.0156
2,Conn et al.,1968,21,group,aware,60,198,0.12,0.0216
3,Jose & Cody,1971,19,group,aware,72,72,-0.14,0.0279
4,Pellegrini & Hicks,1972,0,group,aware,11,22,1.18,0.1391
5,Pellegrini & Hicks,1972,0,group,blind,11,22,0.26,0.1362
6,Evans & Rosenthal,1969,3,group,aware,129,348,-0.06,0.0106
7,Fielder et al.,1971,17,group,blind,110,636,-0.02,0.0106
8,Claiborn,1969,24,group,aware,26,99,-0.32,0.0484
9,Kester,1969,0,group,aware,75,74,0.27,0.0269
10,Maxwell,1970,1,indiv,blind,32,32,0.8,0.063
11,Carter,1970,0,group,blind,22,22,0.54,0.0912
12,Flowers,1966,0,group,blind,43,38,0.18,0.0497
13,Keshock,1970,1,indiv,blind,24,24,-0.02,0.0835
14,Henrikson,1970,2,indiv,blind,19,32,0.23,0.0841
15,Fine,1972,17,group,aware,80,79,-0.18,0.0253
16,Grieger,1970,5,group,blind,72,72,-0.06,0.0279
17,Rosenthal & Jacobson,1968,1,group,aware,65,255,0.3,0.0193
18,Fleming & Anttonen,1971,2,group,blind,233,224,0.07,0.0088
19,Ginsburg,1970,7,group,aware,65,67,-0.07,0.0303
"""
# Hackshaw, SMMR 1998: passive smoking and lung cancer.
HACKSHAW1998 = """\
study,author,year,country,design,cases,or,or.lb,or.ub,yi,vi
1,Garfinkel,1981,USA,cohort,153,1.18,0.9,1.54,0.16551443847757333,0.01877688548506811
2,Hirayama,1984,Japan,cohort,200,1.45,1.02,2.08,0.371563556432483,0.03304403890578804
3,Butler,1988,USA,cohort,8,2.02,0.48,8.56,0.7030975114131134,0.5401958653424493
4,Cardenas,1997,USA,cohort,150,1.2,0.8,1.6,0.1823215567939546,0.03126761448866626
5,Chan,1982,Hong Kong,case-control,84,0.75,0.43,1.3,-0.2876820724517809,0.07965565410201106
6,Correa,1983,USA,case-control,22,2.07,0.81,5.25,0.7275486072772777,0.22732059167048174
7,Trichopolous,1983,Greece,case-control,62,2.13,1.19,3.83,0.7561219797213337,0.08892156270698032
8,Buffler,1984,USA,case-control,41,0.8,0.34,1.9,-0.2231435513142097,0.19267960311708135
9,Kabat,1984,USA,case-control,24,0.79,0.25,2.45,-0.23572233352106983,0.33901634753858917
10,Lam,1985,Hong Kong,case-control,60,2.01,1.09,3.72,0.6981347220709843,0.09806620243876361
11,Garfinkel,1985,USA,case-control,134,1.23,0.81,1.87,0.20701416938432612,0.04555554857753469
12,Wu,1985,USA,case-control,29,1.2,0.5,3.3,0.1823215567939546,0.231749969641464
13,Akiba,1986,Japan,case-control,94,1.52,0.87,2.63,0.41871033485818504,0.07964292201924533
14,Lee,1986,UK,case-control,32,1.03,0.41,2.55,0.02955880224154443,0.21739502467256727
15,Koo,1987,Hong Kong,case-control,86,1.55,0.9,2.67,0.4382549309311553,0.07695797403868815
16,Pershagen,1987,Sweden,case-control,70,1.03,0.61,1.74,0.02955880224154443,0.07150176352577314
17,Humble,1987,USA,case-control,20,2.34,0.81,6.75,0.85015092936961,0.29256577206568934
18,Lam,1987,Hong Kong,case-control,199,1.65,1.16,2.35,0.5007752879124892,0.032437507429871205
19,Gao,1987,China,case-control,246,1.19,0.82,1.73,0.17395330712343798,0.03627334664185362
20,Brownson,1987,USA,case-control,19,1.52,0.39,5.96,0.41871033485818504,0.4838512418224671
21,Geng,1988,China,case-control,54,2.16,1.08,4.29,0.7701082216960737,0.12381620192184237
22,Shimizu,1988,Japan,case-control,90,1.08,0.64,1.82,0.0769610411361284,0.07108519172211895
23,Inoue,1988,Japan,case-control,22,2.55,0.74,8.78,0.9360933591703348,0.39819543335418506
24,Kalandidi,1990,Greece,case-control,90,1.62,0.9,2.91,0.4824261492442928,0.08962312406894403
25,Sobue,1990,Japan,case-control,144,1.06,0.74,1.52,0.058268908123975824,0.03371988833255057
26,Wu-Williams,1990,China,case-control,417,0.79,0.62,1.02,-0.23572233352106983,0.01612949091739016
27,Liu,1991,China,case-control,54,0.74,0.32,1.69,-0.3011050927839216,0.18023347343561197
28,Jockel,1991,Germany,case-control,23,2.27,0.75,6.82,0.8197798314933114,0.317147722864399
29,Brownson,1992,USA,case-control,431,0.97,0.78,1.21,-0.030459207484708574,0.012546845149027305
30,Stockwell,1992,USA,case-control,210,1.6,0.8,3.0,0.47000362924573563,0.11369629235096744
31,Du,1993,China,case-control,75,1.19,0.66,2.13,0.17395330712343798,0.08933678041656667
32,Liu,1993,China,case-control,38,1.66,0.73,3.78,0.5068176023684519,0.1759855947918323
33,Fontham,1994,USA,case-control,651,1.26,1.04,1.54,0.23111172096338664,0.010029047431528208
34,Kabat,1995,USA,case-control,67,1.1,0.62,1.96,0.09531017980432493,0.08621435588658631
35,Zaridze,1995,Russia,case-control,162,1.66,1.12,2.45,0.5068176023684519,0.039874967543697924
36,Sun,1996,China,case-control,230,1.16,0.8,1.69,0.14842000511827322,0.03639975556962952
37,Wang,1996,China,case-control,135,1.11,0.67,1.84,0.10436001532424286,0.06641950662197772
"""

TABLES = {
    "bcg": BCG,
    "egger2001": EGGER2001,
    "normand1999": NORMAND1999,
    "raudenbush1985": RAUDENBUSH1985,
    "hackshaw1998": HACKSHAW1998,
}


def write(folder: Path, name: str) -> Path:
    """Write a table into a folder as CSV."""
    path = folder / f"dat.{name}.csv"
    path.write_text(TABLES[name], encoding="utf-8")
    return path


def table(folder: Path, name: str, measure: str | None = None) -> Effects:
    """Return a table as effects, by way of its file."""
    return read_effects(read_csv(write(folder, name)), measure=measure)


def given(folder: Path, text: str, measure: str | None = None, **columns: str) -> Effects:
    """Return a table that a test writes out as effects."""
    path = folder / "given.csv"
    path.write_text(text, encoding="utf-8")
    return read_effects(read_csv(path), measure=measure, columns=columns)
