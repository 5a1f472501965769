// The Express app of the tests: python_app.py has the same paths, which do the same.
//
//   PACKAGE       connect-session-sequelize, connect-session-sequelize-8, connect-pg-simple
//                 or express-mysql-session
//   DATABASE      a URL, or the path of a SQLite file
//   SECRETS       a list in JSON: the first signs, all verify
//   node app.js PORT
const express = require('express')
const session = require('express-session')

const database = process.env.DATABASE

async function sequelizeStore () {
  const { Sequelize } = require('sequelize')
  const SequelizeStore = require(process.env.PACKAGE)(session.Store)
  const db = database.includes('://')
    ? new Sequelize(database, { logging: false })
    : new Sequelize({ dialect: 'sqlite', storage: database, logging: false })
  const store = new SequelizeStore({ db })
  await store.sync()
  return store
}

const STORES = {
  'connect-session-sequelize': sequelizeStore,
  'connect-session-sequelize-8': sequelizeStore,
  'connect-pg-simple': async () => {
    const Store = require('connect-pg-simple')(session)
    const store = new Store({ conString: database, createTableIfMissing: true })
    await store._ensureSessionStoreTable()
    return store
  },
  'express-mysql-session': async () => {
    const Store = require('express-mysql-session')(session)
    const { hostname, port, username, password, pathname } = new URL(database)
    const store = new Store({
      host: hostname,
      port: Number(port),
      user: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: pathname.slice(1)
    })
    await store.onReady()
    return store
  }
}

async function main () {
  const app = express()
  app.use(session({
    secret: JSON.parse(process.env.SECRETS),
    store: await STORES[process.env.PACKAGE](),
    resave: false,
    saveUninitialized: false
  }))
  app.use(express.json({ strict: false }))

  const answer = (request, response) => {
    response.json({ id: request.session.id, values: { ...request.session, cookie: undefined } })
  }
  app.get('/', answer)
  app.post('/login', (request, response, next) => {
    request.session.regenerate(error => {
      if (error) return next(error)
      request.session.user = request.body
      answer(request, response)
    })
  })
  app.post('/count', (request, response) => {
    request.session.count = (request.session.count || 0) + 1
    answer(request, response)
  })
  app.post('/set', (request, response) => {
    Object.assign(request.session, request.body)
    answer(request, response)
  })
  app.post('/made', (request, response) => {
    // What JSON that travels over HTTP would not say the same way.
    Object.assign(request.session, {
      7: 'an index',
      emoji: '👩‍🚀🛒',
      lone: '\ud83d and \ude00',
      date: new Date(Date.UTC(2026, 10, 24)),
      large: 2 ** 60,
      larger: 1e21,
      tiny: 1e-7,
      small: 0.00001,
      negative: -0,
      missing: undefined,
      nothing: null,
      list: [undefined, NaN, []],
      nested: JSON.parse('{"__proto__": {"a": 1}, "cookie": {"b": 2}, "z": 1, "a": 2}')
    })
    answer(request, response)
  })
  app.post('/max-age', (request, response) => {
    request.session.cookie.maxAge = request.body === null ? null : 1000 * request.body
    request.session.remembered = request.body
    answer(request, response)
  })
  // A request that has read its session, and goes on when it is told to.
  let gate
  const close = () => {
    gate = {}
    gate.arrived = new Promise(resolve => { gate.arrive = resolve })
    gate.opened = new Promise(resolve => { gate.open = resolve })
  }
  close()
  app.post('/held', async (request, response) => {
    const { opened, arrive } = gate
    arrive()
    await opened
    Object.assign(request.session, request.body)
    answer(request, response)
  })
  app.post('/arrived', async (request, response) => response.json(await gate.arrived || {}))
  app.post('/open', (request, response) => {
    gate.open()
    close()
    response.json({})
  })
  app.post('/logout', (request, response, next) => {
    request.session.destroy(error => error ? next(error) : response.json({}))
  })
  app.listen(Number(process.argv[2]), '127.0.0.1')
}

main()
