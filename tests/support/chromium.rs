//! Chromium without a window, driven by its own protocol over a pipe: pages are looked at, typed into, clicked on and judged
//! as by a person with a keyboard and a mouse.
//!
//! Not obvious: the browser talks on its descriptors 3 and 4, one JSON object after the other, each with a NUL behind it; a
//! shell puts our pipes there. What Debian installs is a shell script too, and a browser is many processes: they are a group, which
//! is killed as one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// For anything that a browser does: it starts slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's documentation; ends with its value.
pub struct Chromium {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    calls: u64,
    /// The one page.
    session: Option<String>,
    /// What has gone wrong in it since somebody asked.
    troubles: Vec<String>,
    child: Child,
    _profile: tempfile::TempDir,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It was not waited for, so that nobody else has the number of its group.
        if let Some(group) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Fails only when all of them have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The browser that is installed; see tests/run.sh.
fn program() -> &'static str {
    let programs = ["chromium-headless-shell", "chromium", "google-chrome"];
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let installed = |program: &&str| folders.iter().any(|folder| folder.join(program).is_file());
    programs.into_iter().find(installed).expect("a browser is installed: see tests/run.sh")
}

/// What every run of the browser is told.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--ignore-certificate-errors",
];

impl Chromium {
    /// A browser that shows `url`.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null", program()]);
        command.args(FLAGS).args(["--remote-debugging-pipe", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut this =
            Self { to, from, calls: 0, session: None, troubles: Vec::new(), child, _profile: profile };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = this.call("Target.attachToTarget", attach).await;
        this.session = attached["sessionId"].as_str().map(str::to_owned);
        for told in ["Runtime.enable", "Log.enable"] {
            this.call(told, json!({})).await;
        }
        this.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
        this.look(1280, false).await;
        this.go(url).await;
        this
    }

    /// Goes to another page.
    pub async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until(
            "the page is there",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        )
        .await;
    }

    /// Makes the window so wide, and the system's colours dark or light.
    pub async fn look(&mut self, width: u32, dark: bool) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// What a script says; a promise is waited for.
    pub async fn eval(&mut self, script: &str) -> Value {
        self.try_eval(script).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The same where another page may come in the midst of it.
    async fn try_eval(&mut self, script: &str) -> Result<Value, Value> {
        let ask = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let answer = self.try_call("Runtime.evaluate", ask).await?;
        match answer.get("exceptionDetails") {
            Some(exception) => Err(exception.clone()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until a script says `true`.
    pub async fn until(&mut self, what: &str, script: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while self.try_eval(script).await != Ok(true.into()) {
            if tokio::time::Instant::now() > deadline {
                let text = self.eval("document.body.innerText").await;
                panic!(
                    "waited {PATIENCE:?} in vain until {what}; the page says\n{}",
                    text.as_str().unwrap_or("")
                );
            }
            tick.tick().await;
        }
    }

    /// Presses and releases a key: `Tab`, `Enter`, `Escape`, or a character.
    pub async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            " " => (32, " "),
            other => (0, other),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone()).await;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// Goes on with Tab until the focus is on something of which this script, with `it` as its name, says `true`.
    pub async fn tab_to(&mut self, what: &str, script: &str) {
        let is_there = format!("(it => it !== null && ({script}))(document.activeElement)");
        for _ in 0..200 {
            self.press("Tab").await;
            if self.eval(&is_there).await == true {
                return;
            }
        }
        panic!("Tab does not lead to {what}");
    }

    /// Clicks on the middle of an element, which must be what is seen there.
    pub async fn click(&mut self, selector: &str) {
        let find = format!(
            "(it => {{ it.scrollIntoView({{ block: 'center', behavior: 'instant' }}); const box = it.getBoundingClientRect(); \
             const [x, y] = [box.x + box.width / 2, box.y + box.height / 2]; \
             return it.contains(document.elementFromPoint(x, y)) ? [x, y] : null }})(document.querySelector({selector:?}))"
        );
        let place = self.eval(&find).await;
        assert!(place.is_array(), "something else is where {selector} is");
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Clicks on what leads to another page, and waits for that page.
    pub async fn follow(&mut self, selector: &str) {
        self.eval("void (window.isOld = true)").await;
        self.click(selector).await;
        let there = "window.isOld === undefined && document.readyState === 'complete'";
        self.until(&format!("{selector} has led to another page"), there).await;
    }

    /// Writes a text into a field, in the place of what is there.
    pub async fn write(&mut self, selector: &str, text: &str) {
        self.click(selector).await;
        self.eval("document.activeElement.select()").await;
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// What has gone wrong since the last time, in the page or with what it loads: errors and warnings, as a person finds them in
    /// the browser's console. That something was answered with 404 is one of them.
    pub async fn troubles(&mut self) -> Vec<String> {
        // What the browser says comes in order: before this answer is everything that was.
        self.eval("void 0").await;
        std::mem::take(&mut self.troubles)
    }

    /// What axe-core finds wrong with the page as it is, in words; empty when nothing is.
    pub async fn violations(&mut self) -> Vec<String> {
        let axe = axe();
        self.eval(&format!("typeof axe === 'undefined' ? (() => {{ {axe}\n; return true }})() : true")).await;
        let found = self.eval("axe.run(document, { resultTypes: ['violations'] }).then(({ violations, passes }) => ({ \
            passes: passes.length, violations: violations.map(({ id, help, nodes }) => \
            `${id}: ${help}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join(' | ')}`) }))");
        let found = found.await;
        assert!(found["passes"].as_u64().unwrap() > 10, "axe has looked at the page: {found}");
        let violations = found["violations"].as_array().unwrap();
        violations.iter().map(|violation| violation.as_str().unwrap().to_owned()).collect()
    }

    /// Saves what the page looks like, if `SELVEDGE_SCREENSHOTS` names a folder for it.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SELVEDGE_SCREENSHOTS") else { return };
        let (width, height) =
            (self.eval("innerWidth").await, self.eval("document.documentElement.scrollHeight").await);
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let whole = json!({ "captureBeyondViewport": true, "clip": clip });
        let shot = self.call("Page.captureScreenshot", whole).await;
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let exchange = async {
            let mut bytes = message.to_string().into_bytes();
            bytes.push(0);
            self.to.write_all(&bytes).await.unwrap();
            loop {
                let mut answer = Vec::new();
                self.from.read_until(0, &mut answer).await.unwrap();
                assert_eq!(answer.pop(), Some(0), "the browser ended during {method}");
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                if answer["id"] == self.calls {
                    break answer;
                }
                self.troubles.extend(trouble(&answer));
            }
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        let answer = answer.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }
}

/// What went wrong, if that is what the browser tells of: a script failed, a script says so, or the browser does.
fn trouble(event: &Value) -> Option<String> {
    let told = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", told["exceptionDetails"])),
        "Runtime.consoleAPICalled" if told["type"] == "error" || told["type"] == "warning" => {
            Some(format!("console: {}", told["args"]))
        }
        "Log.entryAdded" if told["entry"]["level"] == "error" || told["entry"]["level"] == "warning" => {
            Some(format!("log: {} {}", told["entry"]["text"], told["entry"]["url"]))
        }
        _ => None,
    }
}

/// The text of axe-core, from where tests/run.sh puts it.
fn axe() -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let versions = std::fs::read_dir(target.join("python/lib")).into_iter().flatten();
    let mut files = versions
        .map(|version| version.unwrap().path().join("site-packages/axe_playwright_python/axe.min.js"));
    let text = files.find_map(|file| std::fs::read_to_string(file).ok());
    text.expect("axe-core is installed: run tests/run.sh once")
}
