//! What is refused and where, what is only warned of, and what is made of a file that is good.

use super::*;
use crate::config::{Action, AdminAddress, HostPattern, Probe, ZoneOf};

/// A file that is good, for a test to add to. Its last table is the target.
const GOOD: &str = r#"
[[listener]]
address = "127.0.0.1:8080"
[[route]]
pool = "shop"
[pool.shop]
[[pool.shop.target]]
address = "127.0.0.1:9001"
"#;

fn compiled(text: &str) -> Result<Config, Vec<Problem>> {
    compile(text, Path::new("/nowhere"), &Overrides::default(), &mut Vec::new())
}

/// Everything that is wrong with `text`, a line each: `LINE KEY: WHAT; HINT`.
fn problems(text: &str) -> Vec<String> {
    let problems = compiled(text).expect_err("something is wrong");
    let shown = |p: &Problem| format!("{} {}: {}; {}", p.line.unwrap_or(0), p.key, p.what, p.hint);
    problems.iter().map(shown).collect()
}

/// `GOOD` with `text` below it, or in place of what `text` repeats of it.
fn good_and(text: &str) -> String {
    format!("{GOOD}{text}")
}

#[test]
fn lines_and_keys_point_at_the_mistake() {
    let text = r#"
workers = "many"
[[listener]]
address = "127.0.0.1"
allow = [
  "10.0.0.0/8",
  "ten",
]
[[listener]]
addres = "127.0.0.1:1"
[[route]]
pool = "shop"
[pool."a b"]
[pool.shop.health]
interval = 5
[[pool.shop.target]]
address = "127.0.0.1:9001"
[[pool.shop.target]]
weight = 300
address = "127.0.0.1:9001"
"#;
    let places = problems(text).into_iter().map(|line| line.split(": ").next().unwrap().to_owned());
    assert_eq!(
        places.collect::<Vec<_>>(),
        [
            "2 workers",
            "4 listener[0].address",
            "7 listener[0].allow[1]",
            "9 listener[1].address",
            "10 listener[1].addres",
            "13 pool.\"a b\"",
            "15 pool.shop.health.interval",
            "19 pool.shop.target[1].weight",
            "20 pool.shop.target[1].address",
        ]
    );
}

#[test]
fn a_syntax_error_comes_alone_with_its_line() {
    let problems = problems("workers = 1\n[[listener]\nworkers = none\n");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("2 : not valid TOML: "), "{problems:?}");
}

#[test]
fn an_empty_file_lacks_a_listener() {
    let expected = "0 listener: there is none, so no client could connect; \
                    write [[listener]] and below it address = \"0.0.0.0:8080\"";
    assert_eq!(problems(""), [expected]);
}

/// Each of these is one mistake in the file `GOOD`, and gives one error that contains what stands beside it.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str)] = &[
    // Keys and forms.
    ("[logs]\nlevel = \"info\"", "9 logs: there is no such key; did you mean \"log\"?"),
    ("[admin]\nbind = \"x\"", "10 admin.bind: there is no such key; remove it; the keys here are enabled, address"),
    ("[log]\nlevel = \"inof\"", "10 log.level: \"inof\" is not one of the choices here; did you mean \"info\"?"),
    ("[log]\nlevel = \"loud\"", "write \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""),
    ("[log]\nlevel = 3", "3 is not one of the choices here"),
    ("[forwarding]\nvia = \"yes\"", "\"yes\" is not a yes or no; write true or false"),
    ("[shutdown]\ndeadline = 30", "30 is not a duration; write a number and a unit"),
    ("[shutdown]\ndeadline = \"2d\"", "\"2d\" is out of range; write \"0s\" to \"1d\""),
    ("[shutdown]\ndeadline = [\"2d\"]", "a list is not a duration"),
    ("[[admin]]", "9 admin: a list is not a table; write its keys below [admin]"),
    ("[[pool.shop.target]]\naddress = \"shop.internal:9001\"", "is not an IP address with a port"),
    // Of the contract, but not in this version.
    ("[pool.shop.zones]\nmode = \"spill\"", "10 pool.shop.zones.mode: needs to know where this node stands; write zone = \"az-a\""),
    ("[pool.shop.zones]\nevacuate = \"5%\"", "zones.evacuate: \"5%\" is not a rate; write \"at_once\""),
    ("[pool.shop.zones]\nevacuate = \"500%/s\"", "zones.evacuate: is out of range"),
    ("[pool.shop.zones.weights]\naz-a = 5000", "zones.weights.az-a: 5000 is out of range"),
    ("[pool.shop.zones]\nmin_healthy = \"many\"", "zones.min_healthy: \"many\" is not a percentage"),
    ("[pool.shop.zones.gray]\nlatency = 1.0", "gray.latency: 1 is out of range; write 1.1 to 1000"),
    ("[pool.shop.outlier]\nconsecutive = 0", "outlier.consecutive: 0 is out of range"),
    ("[pool.x]\nbalance = \"hash\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "10 pool.x.hash_on: is missing; write what to hash"),
    ("[pool.x]\nhash_on = \"path\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "pool.x.hash_on: has a meaning only when balance = \"hash\""),
    ("[pool.x]\nbalance = \"hash\"\nhash_on = \"mood\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "\"mood\" is not something to hash; write \"header:NAME\""),
    ("[pool.shop.zones]\noverprovisioning = 0.5", "overprovisioning: 0.5 is out of range; write 1 to 100"),
    ("[pool.shop.stickiness]\nmode = \"app_cookie\"", "stickiness.application_cookie: is missing"),
    ("[pool.shop.stickiness]\nmode = \"lb_cookie\"\napplication_cookie = \"sid\"", "has a meaning only when mode = \"app_cookie\""),
    ("[pool.shop.stickiness]\nmode = \"off\"\nfailback = \"later\"", "write \"never\" or \"idle\" or \"always\""),
    // Listeners.
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nbacklog = 0", "listener[1].backlog: 0 is out of range; write 1 to 1000000"),
    ("[[listener]]\nname = \"a\"", "listener[1].address: is missing; write address = "),
    ("[[listener]]\naddress = \"127.0.0.1:8080\"", "listener[1].address: 127.0.0.1:8080 is already in line 3"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nallow = []", "listener[1].allow: is empty"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nmax_fields = 257", "257 is out of range; write 1 to 256"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nmax_head = \"1B\"", "\"1B\" is out of range; write \"1KiB\" to \"1MiB\""),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nmax_body = \"10MB\"", "\"10MB\" is not a size"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.proxy_protocol]\ntimeout = \"1s\"", "listener[1].proxy_protocol.from: is missing; list the proxies"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol.from = []", "listener[1].proxy_protocol.from: is empty; list the proxies"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol.from = [\"lb\"]", "proxy_protocol.from[0]: \"lb\" is not a range of addresses"),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = { from = [\"10.0.0.1\"], timeout = \"1ms\" }", "\"1ms\" is out of range; write \"10ms\" to \"10m\""),
    ("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = true", "listener[1].proxy_protocol: true is not a table"),
    // Routes.
    ("[[route]]\npath = \"/a\"", "9 route[1]: does not say what to do"),
    ("[[route]]\npath = \"/a\"\npool = \"shop\"\nrespond = { status = 200 }", "says several things to do: pool, respond"),
    ("[[route]]\npath = \"/a\"\npool = \"shpo\"", "11 route[1].pool: there is no pool \"shpo\"; did you mean \"shop\"?"),
    ("[[route]]\npath = \"/a\"\npools = [{ pool = \"shop\" }, { pool = \"x\" }]", "route[1].pools[1].pool: there is no pool \"x\""),
    ("[[route]]\npath = \"/a\"\npools = [{ pool = \"shop\", weight = 0 }]", "gives no pool a weight above 0"),
    ("[[route]]\npath = \"/a\"\npools = []", "gives no pool a weight above 0"),
    ("[[route]]\npath = \"/a\"\npools = [{ pool = \"shop\" }, { pool = \"shop\" }]", "\"shop\" is in the list twice"),
    ("[[route]]\npath = \"a\"\npool = \"shop\"", "route[1].path: \"a\" is not a path"),
    ("[[route]]\npath = \"/a?b\"\npool = \"shop\"", "has a query; write \"/a\""),
    ("[[route]]\npath = \"/a/*\"\npool = \"shop\"", "ends in \"*\", but is a prefix anyway; write \"/a/\""),
    ("[[route]]\nhost = \"a.test:80\"\npool = \"shop\"", "has a port, which routes do not look at; write \"a.test\""),
    ("[[route]]\nhost = \"*\"\npool = \"shop\"", "leave the key out to match any host"),
    ("[[route]]\nmethods = [\"get\"]\npool = \"shop\"", "route[1].methods[0]: \"get\" is not a method"),
    ("[[route]]\nmethods = [\"TRACE\"]\npool = \"shop\"", "TRACE is refused with 405"),
    ("[[route]]\nheaders = [{ name = \"x y\" }]\npool = \"shop\"", "headers[0].name: \"x y\" is not a field name"),
    ("[[route]]\nheaders = [{ value = \"x\" }]\npool = \"shop\"", "headers[0].name: is missing"),
    ("[[route]]\nquery = [{ name = \"\" }]\npool = \"shop\"", "query[0].name: is missing"),
    ("[[route]]\nsources = [\"10.0.0.0/40\"]\npool = \"shop\"", "sources[0]: \"10.0.0.0/40\" is not a range of addresses"),
    ("[[route]]\npool = \"shop\"", "9 route[1]: never wins: the route in line 4 has the same conditions"),
    ("[[route]]\npath = \"/a\"\npool = \"shop\"\n[[route]]\npath = \"/a/\"\npool = \"shop\"", "12 route[2]: never wins: the route in line 9"),
    ("[[route]]\npath = \"/a\"\nredirect = {}", "leads back to the same address"),
    ("[[route]]\npath = \"/a\"\nredirect = { status = 304, path = \"/b\" }", "304 is not a status that can be sent here"),
    ("[[route]]\npath = \"/a\"\nredirect = { host = \"a b\" }", "\"a b\" is not a host"),
    ("[[route]]\npath = \"/a\"\nrespond = { body = \"x\" }", "respond.status: is missing"),
    ("[[route]]\npath = \"/a\"\nrespond = { status = 204, body = \"x\" }", "an answer with status 204 has no body"),
    ("[[route]]\npath = \"/a\"\nrespond = { status = 100 }", "100 is not a status that can be sent here; write 200 to 599"),
    // Pools.
    ("[pool.other]\n[admin]\nenabled = false", "9 pool.other: has no target"),
    ("[pool.x]\nproxy_protocol = \"v1\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "\"v1\" is not one of the choices here; write \"off\" or \"v2\""),
    ("[pool.x]\nproxy_protocol = \"v2\"\nprotocol = \"h2\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "x.proxy_protocol: needs protocol = \"http1\""),
    ("[pool.x]\nprotocol = \"h3\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "\"h3\" is not one of the choices here"),
    ("[pool.x]\nprotocol = \"auto\"\ntarget = [{ address = \"127.0.0.1:9\" }]", "10 pool.x.protocol: is agreed on in a TLS handshake, and there is no TLS to the targets; write [pool.x.tls]"),
    // Discovery.
    ("[[pool.shop.discover]]\ntype = \"srv\"", "pool.shop.discover[0].dns: is missing; write dns = "),
    ("[[pool.shop.discover]]\ndns = \"127.0.0.1\"\nport = 1", "\"127.0.0.1\" is an address, which needs no discovery"),
    ("[[pool.shop.discover]]\ndns = \"a b\"\nport = 1", "\"a b\" is not a name in DNS"),
    ("[[pool.shop.discover]]\ndns = \"shop\"", "pool.shop.discover[0].port: is missing; write the port"),
    ("[[pool.shop.discover]]\ndns = \"shop\"\nport = 0", "0 is out of range; write 1 to 65535"),
    ("[[pool.shop.discover]]\ndns = \"_a._tcp.b\"\nport = 1", "port: has no meaning: SRV records say the port"),
    ("[[pool.shop.discover]]\ndns = \"_a._tcp.b\"\ntype = \"txt\"", "type: \"txt\" is not one of the choices here"),
    ("[[pool.shop.discover]]\ndns = \"b\"\nport = 1\nzone_from = \"label\"", "\"label\" has a meaning for SRV records only"),
    ("[[pool.shop.discover]]\ndns = \"_b\"\nzone = \"a\"\nzone_from = \"label\"", "zone_from: stands beside zone; remove one"),
    ("[[pool.shop.discover]]\ndns = \"_b\"\nzone_from = \"lable\"", "\"lable\" is not a source of zones; write \"label\""),
    ("[[pool.shop.discover]]\ndns = \"_b\"\nzone_from = {}", "zone_from: is empty; write"),
    ("[[pool.shop.discover]]\ndns = \"_b\"\nzone_from = { \"ten\" = \"az-a\" }", "zone_from.ten: \"ten\" is not a range of addresses"),
    ("[[pool.shop.discover]]\ndns = \"_b\"\nmin_ttl = \"2s\"\nmax_ttl = \"1s\"", "max_ttl: is shorter than min_ttl"),
    ("[[pool.shop.discover]]\ndns = \"_b\"\n[[pool.shop.discover]]\ndns = \"_B.\"", "asks for \"SRV _b\", as another one"),
    ("[resolver]\nnameservers = []", "10 resolver.nameservers: is empty; remove it to ask the system's"),
    ("[resolver]\nnameservers = [\"dns.internal\"]", "\"dns.internal\" is not a name server; write it such as \"10.0.0.2\""),
    ("[resolver]\nattempts = 0", "0 is out of range; write 1 to 10"),
    ("[resolver]\nca_file = \"x\"\nnameservers = [\"10.0.0.1\"]", "ca_file: has no meaning: no name server is asked over TLS"),
    ("[resolver]\nca_file = \"x\"\nnameservers = [\"tls://10.0.0.1\"]", "/nowhere/x cannot be read"),
    ("[[pool.shop.target]]\naddress = \"127.0.0.1:9001\"", "target[1].address: 127.0.0.1:9001 is already in line 8"),
    ("[[pool.shop.target]]\naddress = \"127.0.0.1:0\"", "has port 0"),
    ("[[pool.shop.target]]\naddress = \"127.0.0.1:8080\"", "is the listener \"127.0.0.1:8080\""),
    ("[[pool.shop.target]]\nzone = \"az-a\"", "target[1].address: is missing"),
    ("[[pool.shop.target]]\naddress = \"127.0.0.1:1\"\nzone = \"-\"", "\"-\" is not a name"),
    ("[[pool.shop.target]]\naddress = \"127.0.0.1:1\"\nmax_connections = 0", "0 is out of range"),
    ("[pool.shop.zones]\npanic = \"101%\"", "\"101%\" is out of range; write \"0%\" to \"100%\""),
    ("[pool.shop.zones]\npanic = 0.5", "0.5 is not a percentage"),
    ("[pool.shop.health]\ntimeout = \"6s\"", "\"6s\" is longer than the interval of \"5s\""),
    ("[pool.shop.health]\nexpect = [\"299-200\"]", "expect[0]: \"299-200\" is not a range of statuses"),
    ("[pool.shop.health]\nexpect = []", "expect: is empty"),
    ("[pool.shop.health]\ntype = \"tcp\"\npath = \"/\"", "path: has no meaning when type = \"tcp\""),
    ("[pool.shop.health]\ntype = \"grpc\"\nexpect = [\"200\"]", "expect: has no meaning when type = \"grpc\"; remove it, or write type = \"http\""),
    ("[pool.shop.health]\nservice = \"shop.Cart\"", "service: has no meaning when type = \"http\"; remove it, or write type = \"grpc\""),
    ("[pool.shop.health]\nport = 65536", "65536 is out of range; write 1 to 65535"),
    ("[pool.shop.retry]\nstatuses = [\"200-599\"]", "holds statuses that are no failures"),
    // Stickiness.
    ("[pool.shop.stickiness]\nidle = \"1h\"", "stickiness.mode: is missing"),
    ("[pool.shop.stickiness]\nmode = \"off\"\nidle = \"8d\"", "\"8d\" is out of range; write \"1s\" to \"7d\""),
    ("[pool.shop.stickiness]\nmode = \"off\"\nabsolute = \"1h\"", "\"1h\" is shorter than idle, which is \"1d\""),
    ("[pool.shop.stickiness]\nmode = \"off\"\ncookie = \"a=b\"", "\"a=b\" is not a cookie name"),
    ("[pool.shop.stickiness]\nmode = \"off\"\nsame_site = \"none\"\nsecure = \"never\"", "\"none\" is dropped by browsers"),
    ("[pool.shop.stickiness]\nmode = \"off\"\npartitioned = true\nsecure = \"never\"", "partitioned: is dropped by browsers"),
    ("[pool.shop.stickiness]\nmode = \"off\"\ncookie = \"__Host-a\"\ndomain = \"a.test\"", "begins with __Host-"),
    // The node.
    ("[session_keys]\nfile = \"no.keys\"", "file: /nowhere/no.keys cannot be read: No such file or directory"),
    ("[session_keys]\nfile = \"/\"", "/ cannot be read: Is a directory"),
    ("[admin]\naddress = \"0.0.0.0:9900\"", "0.0.0.0:9900 can be reached from other machines, by anyone"),
    ("[admin]\naddress = \"127.0.0.1:8080\"", "is already taken by the listener \"127.0.0.1:8080\""),
    ("[admin]\naddress = \"unix:\"", "\"unix:\" is not an IP address with a port, or a socket"),
    ("[admin]\ntoken_file = \"no.token\"", "token_file: /nowhere/no.token cannot be read"),
];

#[test]
fn every_mistake_gives_one_error_that_says_what_to_write() {
    let mut failed = String::new();
    for (text, expected) in MISTAKES {
        let found = problems(&good_and(text));
        if found.len() != 1 || !found[0].contains(expected) || found[0].ends_with("; ") {
            failed.push_str(&format!("{text}\ngives {found:#?}\nnot {expected}\n\n"));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn what_is_wrong_is_not_called_missing_too() {
    let listener = problems("[[listener]]\naddress = 1\n");
    assert_eq!(listener.len(), 1, "{listener:?}");
    let pool =
        problems(&GOOD.replace("[pool.shop]", "[pool]\nshop = 1").replace("[[pool.shop.target]]", "[x]"));
    assert!(pool.iter().all(|problem| !problem.contains("no pool")), "{pool:?}");
}

#[test]
fn everything_has_a_default_but_addresses() {
    let config = compiled(GOOD).unwrap();
    assert_eq!(config.listeners[0].name.as_ref(), "127.0.0.1:8080");
    assert_eq!(config.listeners[0].allow.len(), 2);
    assert_eq!(config.routes[0].path.as_ref(), "/");
    assert_eq!(config.admin.unwrap().address, AdminAddress::Tcp("127.0.0.1:9900".parse().unwrap()));
    let pool = &config.pools[0];
    assert_eq!((pool.targets[0].zone.as_ref(), pool.targets[0].weight), ("-", 1));
    assert!(matches!(&pool.health.probe, Probe::Http { path, .. } if &**path == "/"));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_backlog_that_the_kernel_cuts_is_warned_of() {
    let of =
        |backlog: u32| compiled(&GOOD.replace(":8080\"", &format!(":8080\"\nbacklog = {backlog}"))).unwrap();
    assert_eq!((of(1).listeners[0].backlog, of(1).warnings), (1, Vec::new()));
    let most: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    if most < 1_000_000 {
        let expected =
            format!("listener[0].backlog: the kernel makes {most} of 1000000; raise net.core.somaxconn");
        assert_eq!(of(1_000_000).warnings, [expected]);
    }
}

#[test]
fn a_user_is_looked_up_and_is_not_root() {
    let wrong = [
        ("group = \"daemon\"", "group: has no meaning without user"),
        ("user = \"root\"", "user: \"root\" is root"),
        ("user = \"0\"", "user: \"0\" is root"),
        ("user = \"no such user\"", "user: there is no user \"no such user\" on this machine"),
        ("user = \"4242424242\"", "user: user 4242424242 has no name here, and so no group"),
        ("user = \"7\"\ngroup = \"no such group\"", "group: there is no group \"no such group\""),
    ];
    for (text, expected) in wrong {
        let found = problems(&format!("{text}{GOOD}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
    let of = |text: &str| {
        let run_as = compiled(&format!("{text}{GOOD}")).unwrap().run_as;
        run_as.map(|run_as| (run_as.uid, run_as.gid))
    };
    assert_eq!(of(""), None);
    assert_eq!(of("user = \"4242424242\"\ngroup = \"7\""), Some((4_242_424_242, 7)));
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(of("user = \"nobody\""), Some((nobody.uid.as_raw(), nobody.gid.as_raw())));
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let config = compiled(&good_and("[pool.shop.health]\ninterval = \"1s\"")).unwrap();
    assert_eq!(config.pools[0].health.timeout, seconds(1));
}

#[test]
fn discovery_needs_no_more_than_a_name() {
    let config = compiled(&good_and("[[pool.shop.discover]]\ndns = \"_http._tcp.Shop.internal.\"")).unwrap();
    let discover = &config.pools[0].discover[0];
    assert_eq!(discover.question(), "SRV _http._tcp.shop.internal");
    assert_eq!(discover.zone, ZoneOf::One("-".into()));
    assert_eq!((discover.weight, discover.max_connections), (None, None));
    assert_eq!((discover.min_ttl, discover.max_ttl, discover.hold), (seconds(1), seconds(300), seconds(30)));
    assert_eq!((config.resolver.timeout, config.resolver.attempts), (seconds(2), 2));
    assert!(config.resolver.nameservers.is_empty() && config.warnings.is_empty());
}

#[test]
fn the_narrowest_range_of_zones_comes_first() {
    let text = "[[pool.shop.discover]]\ndns = \"shop\"\nport = 1\n\
                zone_from = { \"10.0.0.0/8\" = \"wide\", \"10.0.1.7\" = \"one\", \"10.0.1.9/24\" = \"narrow\" }";
    let config = compiled(&good_and(text)).unwrap();
    let ZoneOf::Range(ranges) = &config.pools[0].discover[0].zone else { panic!("ranges are expected") };
    let shown: Vec<_> = ranges.iter().map(|(range, zone)| format!("{range} {zone}")).collect();
    assert_eq!(shown, ["10.0.1.7/32 one", "10.0.1.0/24 narrow", "10.0.0.0/8 wide"]);
}

#[test]
fn a_pool_whose_targets_are_all_registered_later_is_warned_of() {
    let text = good_and("[[route]]\npath = \"/later\"\npool = \"later\"\n[pool.later]");
    let expected = "pool.later: has no target but those that are registered at run time";
    assert_eq!(compiled(&text).unwrap().warnings, [expected]);
}

#[test]
fn a_state_file_needs_a_folder() {
    let state = |path: &str| compiled(&format!("state = \"{path}\"\n{GOOD}")).map(|config| config.state);
    assert_eq!(state("/selvedge.state.json"), Ok(Some("/selvedge.state.json".into())));
    for (path, expected) in
        [("", "is not the path of a file"), ("/", "is not the path"), ("x", "is not there")]
    {
        let problems = state(path).unwrap_err();
        assert!(problems[0].what.contains(expected), "{path}: {problems:?}");
    }
}

#[test]
fn routes_refer_to_pools_by_the_order_of_their_names() {
    let text = good_and(
        "[[pool.app.target]]\naddress = \"127.0.0.1:9002\"\n[[route]]\nhost = \"*.A.test\"\npool = \"app\"",
    );
    let config = compiled(&text).unwrap();
    let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_ref()).collect();
    assert_eq!(names, ["app", "shop"]);
    let pool = |route: usize| match &config.routes[route].action {
        Action::Pools(pools) => pools[0].pool,
        other => panic!("{other:?}"),
    };
    assert_eq!((pool(0), pool(1)), (1, 0));
    assert_eq!(config.routes[1].host, Some(HostPattern::Wildcard(".a.test".into())));
}

#[test]
fn the_command_line_wins_over_the_files_zone() {
    let zone = |text: &str| {
        let overrides = Overrides { zone: Some(text.to_owned()) };
        let config = compile(&format!("zone = \"az-a\"{GOOD}"), Path::new(""), &overrides, &mut Vec::new());
        config.map(|config| config.zone.unwrap().to_string()).map_err(|problems| problems[0].what.clone())
    };
    assert_eq!(zone("az-b"), Ok("az-b".to_owned()));
    assert_eq!(zone("a/b"), Err("\"a/b\" is not a name (from --zone or SELVEDGE_ZONE)".to_owned()));
}

/// The warnings for a second pool `app` whose routes and cookie are given, beside a sticky pool `shop` on a.test.
fn cookie_warnings(app: &str, shop: &str) -> Vec<String> {
    let text = format!(
        "{}{shop}\n[pool.app.stickiness]\nmode = \"lb_cookie\"\n{app}",
        GOOD.replace("[pool.shop]", "host = \"a.test\"\n[pool.shop.stickiness]\nmode = \"lb_cookie\"")
    );
    let text = format!("{text}\n[[pool.app.target]]\naddress = \"127.0.0.1:9002\"\n");
    let warnings = compiled(&text).unwrap().warnings;
    warnings.into_iter().filter(|warning| !warning.starts_with("session_keys.file")).collect()
}

#[test]
fn pools_on_one_host_with_one_cookie_are_warned_of() {
    let route = |host: &str| format!("[[route]]\npath = \"/app\"\npool = \"app\"\n{host}");
    for host in ["host = \"a.test\"", "host = \"*.test\"", ""] {
        let warnings = cookie_warnings(&route(host), "");
        assert_eq!(warnings.len(), 1, "{host}: {warnings:?}");
        assert!(warnings[0].contains("each ends the other's sessions"), "{warnings:?}");
    }
    assert_eq!(cookie_warnings(&route("host = \"b.test\""), ""), [""; 0]);
    assert_eq!(cookie_warnings(&format!("cookie = \"APP\"\n{}", route("")), ""), [""; 0]);
    let wide = format!("domain = \"test\"\n{}", route("host = \"b.test\""));
    assert_eq!(cookie_warnings(&wide, "").len(), 1, "its domain covers the other host");
}

#[test]
fn a_domain_that_is_not_that_of_the_host_is_warned_of() {
    let route = "[[route]]\npool = \"app\"\nhost = \"b.test\"";
    let warnings = cookie_warnings(&format!("domain = \"c.test\"\n{route}"), "");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("pool.app.stickiness.domain: browsers refuse"), "{warnings:?}");
}

#[test]
fn sessions_without_a_key_file_and_unused_pools_are_warned_of() {
    let text = GOOD.replace(
        "pool = \"shop\"\n[pool.shop]",
        "respond = { status = 200 }\n[pool.shop.stickiness]\nmode = \"lb_cookie\"",
    );
    let warnings = compiled(&text).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("pool.shop: no route leads to it"), "{warnings:?}");
    assert!(warnings[1].starts_with("session_keys.file: not set"), "{warnings:?}");
}

#[test]
fn to_believe_everybody_who_announces_a_client_is_warned_of() {
    let text =
        GOOD.replacen("[[route]]", "proxy_protocol.from = [\"10.0.0.0/8\", \"0.0.0.0/0\"]\n[[route]]", 1);
    let warnings = compiled(&text).unwrap().warnings;
    let expected = "listener[0].proxy_protocol.from: 0.0.0.0/0 is every address, so any client can claim to be any other; \
                    list the proxies in front only";
    assert_eq!(warnings, [expected]);
}
