"""What a browser sends with each request, where other clients send little: a large part of what a small request costs."""

# Without Accept-Encoding: what compression costs is nginx's, and the part `static` has it.
CHROME = {
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Referer": "https://board.example.com/",
    "Accept-Language": "en-US,en;q=0.9,de;q=0.8",
    "Cookie": "_xsrf=2|7586b241|47c876d965112a2f547c63c95cbc44b1|1402163113; theme=dark; seen=1758000000",
}
