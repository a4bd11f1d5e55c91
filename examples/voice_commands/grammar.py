"""The sentences: a small grammar of Mandarin commands to a smart speaker.

Every template names its slots in braces; a sentence is a template with each slot filled at random.
Some 45 000 different sentences over about 200 characters come out of it, so that what the gate
measures is mostly sentences that training never saw.
"""

from __future__ import annotations

import random
import re

DIGITS = "零一二三四五六七八九"

SLOTS: dict[str, tuple[str, ...]] = {
    "on": ("打开", "开启", "启动"),
    "off": ("关闭", "关掉", "关上"),
    "room": ("客厅", "卧室", "厨房", "书房", "阳台", "浴室"),
    "device": ("灯", "空调", "电视", "风扇", "窗帘", "音响", "加湿器", "热水器", "净化器"),
    "level": ("音量", "亮度", "风速", "湿度"),
    "more": ("大一点", "小一点", "高一点", "低一点", "调到最大", "调到最小"),
    "media": ("音乐", "新闻", "故事", "儿歌", "古典音乐", "流行歌曲", "英语广播"),
    "song": ("上一首", "下一首", "这首歌", "我喜欢的歌"),
    "player": ("暂停播放", "继续播放", "停止播放", "单曲循环"),
    "day": ("今天", "明天", "后天", "周末", "星期一", "星期五"),
    "city": ("北京", "上海", "广州", "深圳", "成都", "杭州", "南京", "西安", "武汉", "重庆"),
    "weather": ("天气怎么样", "会下雨吗", "气温多少度", "有没有风"),
    "period": ("早上", "上午", "中午", "下午", "晚上"),
    "half": ("", "半", "十分", "二十分", "四十五分"),
    "task": ("开会", "吃药", "喝水", "买菜", "运动", "接孩子", "看书", "睡觉"),
    "place": ("公司", "机场", "火车站", "医院", "超市", "学校", "地铁站", "公园"),
    "travel": ("开车", "坐地铁", "走路", "骑车"),
    "person": ("妈妈", "爸爸", "爷爷", "奶奶", "老师", "张医生", "小王"),
    "contact": ("打电话", "发短信", "发微信"),
    "sum": ("加", "减", "乘以", "除以"),
    "query": ("现在几点了", "今天星期几", "讲个笑话", "你叫什么名字"),
}  # fmt: skip

TEMPLATES: tuple[str, ...] = (
    "{on}{room}的{device}",
    "{off}{room}的{device}",
    "{on}{device}",
    "{off}{device}",
    "把{room}的{device}{on}",
    "把{device}{off}",
    "{room}的空调调到{temperature}度",
    "{level}调到百分之{percent}",
    "{level}{more}",
    "播放{media}",
    "我想听{media}",
    "播放{song}",
    "{player}",
    "{day}{city}{weather}",
    "{city}{day}{weather}",
    "{day}{period}{hour}点{half}叫我起床",
    "{period}{hour}点{half}提醒我{task}",
    "{day}提醒我{task}",
    "设置{minutes}分钟的倒计时",
    "导航到{place}",
    "{travel}去{place}要多久",
    "给{person}{contact}",
    "{number}{sum}{number}等于多少",
    "{query}",
)

_SLOT = re.compile(r"\{(\w+)\}")
# Slots filled by a number, with the smallest and the largest.
_NUMBERS = {
    "temperature": (16, 30),
    "percent": (1, 99),
    "hour": (1, 12),
    "minutes": (2, 90),
    "number": (1, 99),
}


def spell(number: int) -> str:
    """The Mandarin reading of a number from 0 to 99, for example 25 -> 二十五."""
    if not 0 <= number <= 99:
        raise ValueError(f"number: cannot be spelled, got {number}, expected 0 to 99")
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


def sentence(rng: random.Random) -> str:
    """One command, drawn from the grammar."""

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in _NUMBERS:
            return spell(rng.randint(*_NUMBERS[slot]))
        return rng.choice(SLOTS[slot])

    template = rng.choices(TEMPLATES, weights=[combinations(t) ** 0.3 for t in TEMPLATES])[0]
    return _SLOT.sub(fill, template)


def combinations(template: str) -> int:
    """How many different sentences a template can give."""
    count = 1
    for slot in _SLOT.findall(template):
        low, high = _NUMBERS.get(slot, (1, len(SLOTS.get(slot, ()))))
        count *= high - low + 1
    return count


def characters() -> list[str]:
    """Every character that a sentence can hold, sorted."""
    texts = [*TEMPLATES, *DIGITS, "十", *(text for texts in SLOTS.values() for text in texts)]
    return sorted(set("".join(_SLOT.sub("", text) for text in texts)))
